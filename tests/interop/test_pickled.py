"""Files of torch.save with foreign objects: what is known becomes inert, what is not is refused, and nothing runs."""

import argparse
import collections
import enum
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from speechssl.config import UserError
from speechssl.interop.pickled import StandIn, load_pickled, plain
from tests.interop.theirs import foreign, pretend


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *args: object):
        self.function, self.args = function, args

    def __reduce__(self) -> tuple[Any, tuple[object, ...]]:
        return self.function, self.args


@pytest.mark.parametrize("old_file", [True, False])
@pytest.mark.parametrize("function", [os.system, eval, exec, __import__, os.rename, sys.exit])
def test_calls_are_refused_and_not_made(function: Any, old_file: bool, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    command = f"__import__('pathlib').Path({str(touched)!r}).touch()"
    path = tmp_path / "model.pt"
    torch.save({"model": Call(function, command)}, path, _use_new_zipfile_serialization=not old_file)
    with pytest.raises(UserError, match=r"model\.pt: names \S+, which is not part of a checkpoint; refused, no code"):
        load_pickled(path)
    assert not touched.exists()


def test_names_of_known_projects_are_not_the_projects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even a module that is there is not imported, and its function is not called."""
    called: list[object] = []

    def spring(value: object) -> None:
        called.append(value)

    spring.__module__, spring.__qualname__ = "fairseq.trap", "spring"
    pretend(monkeypatch, spring)
    torch.save({"cfg": Call(spring, "x")}, tmp_path / "model.pt")
    found = load_pickled(tmp_path / "model.pt")["cfg"]
    assert called == []
    assert isinstance(found, StandIn)
    assert (found.origin, found.args) == ("fairseq.trap.spring", ("x",))


class Choice(enum.Enum):
    A = "a"


Choice.__module__, Choice.__qualname__ = "fairseq.dataclass.constants", "Choice"


def test_settings_become_plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Dictionary = foreign("fairseq.data.dictionary", "Dictionary")
    pretend(monkeypatch, Choice, Dictionary)
    counts: Any = collections.defaultdict(list, {"a": [1]})
    settings = argparse.Namespace(layers=2, inner=argparse.Namespace(x=(1.5, None)), choice=Choice.A, counts=counts)
    settings.words = Dictionary()
    torch.save(settings, tmp_path / "settings.pt")
    expected = {"layers": 2, "inner": {"x": [1.5, None]}, "choice": "a", "counts": {"a": [1]}, "words": None}
    assert plain(load_pickled(tmp_path / "settings.pt")) == expected


def test_settings_without_an_end() -> None:
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(ValueError, match="settings are nested more than 64 deep"):
        plain(endless)


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x02", b"not a pickle at all", pickle.dumps({"a": 1}), b"PK\x03\x04rest"]
)
def test_no_checkpoint(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.pt: not readable as a checkpoint of torch: .") as caught:
        load_pickled(path)
    assert "\n" not in str(caught.value)


def test_damaged(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"model\.pt: not readable as a checkpoint of torch: ."):
        load_pickled(path)


def test_nothing_stays_allowed(tmp_path: Path) -> None:
    """The stand-ins are for one file: torch knows as little afterwards as before."""
    before = set(torch.serialization.get_safe_globals())
    torch.save(argparse.Namespace(a=1), tmp_path / "settings.pt")
    load_pickled(tmp_path / "settings.pt")
    assert set(torch.serialization.get_safe_globals()) == before
