"""A server of the official layouts on loopback, and the tones that stand in for speech."""

import contextlib
import dataclasses
import http.server
import json
import re
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechssl.data.corpora import download


@dataclasses.dataclass
class Server:
    """A folder over http. `requests` is what was asked: (path, start of the range or None)."""

    folder: Path
    address: str = ""
    ranges: bool = True
    cut_after: int | None = None  # bytes of a body, then the connection breaks
    cuts: int = 10**9  # how often it breaks
    requests: list[tuple[str, int | None]] = dataclasses.field(default_factory=list)


def _handler(server: Server) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            start = int(asked[1]) if asked and server.ranges else None
            server.requests.append((self.path, int(asked[1]) if asked else None))
            path = server.folder / self.path.lstrip("/")
            if not path.is_file():
                self.send_error(404)
                return
            body = path.read_bytes()
            if start is not None and start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            rest = body[start or 0 :]
            self.send_response(200 if start is None else 206)
            self.send_header("Content-Length", str(len(rest)))
            if start is not None:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            self.end_headers()
            if server.cut_after is not None and server.cuts > 0:
                server.cuts -= 1
                rest = rest[: server.cut_after]
                self.close_connection = True
            self.wfile.write(rest)

        def log_message(self, *args: object) -> None:  # type: ignore[override]
            pass

    return Handler


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    """`serve(ranges=..., cut_after=..., cuts=...)` starts a server of the folder `tmp_path / "served"`."""
    monkeypatch.setattr(download, "_PAUSE", 0.0)
    with contextlib.ExitStack() as stack:

        def start(**options: object) -> Server:
            folder = tmp_path / "served"
            folder.mkdir(exist_ok=True)
            server = Server(folder, **options)  # type: ignore[arg-type]
            listener = stack.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(server)))
            thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            stack.callback(thread.join)
            stack.callback(listener.shutdown)
            server.address = f"http://127.0.0.1:{listener.server_address[1]}/"
            return server

        yield start


@pytest.fixture
def write_tone() -> Callable[..., Path]:
    """`write_tone(path, seconds=..., rate=..., pitch=...)` writes a tone in the format of the suffix."""

    def write(path: Path, *, seconds: float = 0.25, rate: int = 16000, pitch: float = 220.0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        times = np.arange(round(seconds * rate)) / rate
        kind = {"format": "OGG", "subtype": "OPUS"} if path.suffix == ".opus" else {}
        soundfile.write(path, 0.3 * np.sin(2 * np.pi * pitch * times), rate, **kind)
        return path

    return write


@pytest.fixture
def write_pack(tmp_path: Path, write_tone: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """`write_pack(name, rows)` makes a pack of two tars below a new `SPEECHSSL_PACKS`; each row's `audio` is a tone."""

    def write(name: str, rows: list[dict[str, object]]) -> Path:
        packs, audio = tmp_path / "packs", tmp_path / "audio" / name
        (packs / name).mkdir(parents=True)
        for row in rows:
            write_tone(audio / str(row["audio"]))
        for number, part in enumerate((rows[:1], rows[1:])):
            with tarfile.open(packs / name / f"audio-{number:03d}.tar", "w") as tar:
                for row in part:
                    tar.add(audio / str(row["audio"]), arcname=str(row["audio"]))
        lines = "".join(json.dumps({"duration": 0.25, **row}) + "\n" for row in rows)
        (packs / name / "metadata.jsonl").write_text(lines)
        (packs / name / "README.md").write_text("licence")
        monkeypatch.setenv("SPEECHSSL_PACKS", str(packs))
        return packs

    return write
