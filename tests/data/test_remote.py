"""Addresses whose server refuses: one line that says what it answered and what to check."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import errors

from speechssl.answers import answer, status_of
from speechssl.audio import AudioError
from speechssl.config import UserError
from speechssl.data.remote import fetched, list_address
from speechssl.interop.huggingface_folder import download
from speechssl.interop.sources import open_source

SAYS = {
    401: "the server says 401 Unauthorized: a login is needed",
    403: "the server says 403 Forbidden: no permission: check the login",
    404: "the server says 404 Not Found: check the address",
    503: "the server says 503 Service Unavailable: an error of the server; try again later",
}


class _Refusal(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(int(self.path.split("/")[1]))
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815 -- the name that the base class looks for

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Answers with the status that the address begins with."""
    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Refusal)
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{found.server_port}"
    found.shutdown()
    found.server_close()


@pytest.mark.parametrize("status", SAYS)
@pytest.mark.parametrize("place", ["", "folder/", "*.wav"])
def test_listed(server: str, status: int, place: str) -> None:
    address = f"{server}/{status}/{place}"
    with pytest.raises(UserError) as caught:
        list_address(address)
    assert str(caught.value).startswith(f"{address}: cannot be listed ({SAYS[status]}")


@pytest.mark.parametrize("status", SAYS)
def test_fetched(server: str, status: int, tmp_path: Path) -> None:
    address = f"{server}/{status}/a.wav"
    with pytest.raises(AudioError) as caught, fetched(address, tmp_path):
        pass
    assert str(caught.value).startswith(f"{address}: cannot be fetched ({SAYS[status]}")
    assert list(tmp_path.iterdir()) == []


class _Response:
    status_code = 403
    headers: dict[str, str] = {}  # noqa: RUF012 -- read by the library, written by nobody
    request = None


def test_the_hub_says_what_it_was_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is raised is that the cache is empty; the answer is in the error that it was raised from."""

    def snapshot(*_: object, **__: object) -> str:
        try:
            raise errors.HfHubHTTPError("refused", response=_Response())  # pyright: ignore[reportArgumentType]
        except errors.HfHubHTTPError as error:
            raise errors.LocalEntryNotFoundError("nothing in the cache") from error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    with pytest.raises(UserError, match=r"^hf:org/name: not downloaded: the server says 403 .*\(hf auth login\)$"):
        download("hf:org/name")


def test_models_have_no_addresses() -> None:
    with pytest.raises(UserError, match=r"^https://example.org/model.pt: models are not read from addresses; download"):
        open_source("https://example.org/model.pt")


def test_unknown_statuses() -> None:
    assert answer(599).startswith("the server says 599: an error of the server")
    assert answer(418).endswith("check the address")
    endless = ValueError("a")
    endless.__cause__ = KeyError("b")
    endless.__cause__.__cause__ = endless
    assert status_of(endless) is None
