"""Commands whose output cannot be written: two at once, a full disk, a place that takes no file.

Each ends in one line that names the file or folder, exit code 2, and loses nothing: the same command gives afterwards
what it would have given. `prepare`, `extract` and `predict` have tests of their own.
"""

import errno
import itertools
import json
import os
import shlex
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path

import pytest

from speechssl import cli
from speechssl.config import dump_config
from speechssl.files import hold_file, hold_folder
from speechssl.metrics.results import ResultRow, read_results, write_results
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.storage import save_model
from speechssl.nn.conv import ConvConfig

from ..toys import MICRO_ENCODER, MICRO_RUN, changed, files_of_at_most
from .asr_toys import spoken_corpus

FEW = "--set loop.steps=2 --set loop.checkpoint_every=1 --set loop.precision=fp32 --set device=cpu"
FEW += " --set batches.batch_seconds=2"
COMMANDS = {
    "pretrain": "pretrain prepared --config micro.toml --out OUT",
    "finetune": f"finetune prepared --from encoder --split train --shots 3 --out OUT {FEW}",
    "emotion": "emotion prepared --encoder encoder --shots 2 --draws 1 --test-limit 8 --contenders frozen-probe",
    "asr": "asr prepared --encoder encoder --minutes 0.08 --rounds 0 --no-scratch --rivals none --beam 2",
    "evaluate": "evaluate encoder prepared --shots 2 --seeds 1 --no-baselines --out OUT/results.json",
    "export": "export encoder --out OUT",
    "report": "report probed --out OUT/page.html",
}
COMMANDS["emotion"] += " --out OUT"
COMMANDS["asr"] += f" --out OUT {FEW}"
EXPORTABLE = ConvConfig(layers=((24, 120, 40), (32, 4, 4), (32, 2, 2)))
MICRO = changed(
    MICRO_RUN,
    loop__steps=2,
    loop__checkpoint_every=1,
    loop__validate_every=2,
    loop__validate_batches=1,
    crops__seconds=0.5,
    crops__min_seconds=0.5,
    crops__batch_seconds=2.0,
    objective__mask__length=4,
)
HOLDS: dict[str, Callable[[Path], AbstractContextManager[None]]] = {
    **dict.fromkeys(("pretrain", "finetune", "emotion", "asr"), hold_folder),
    **dict.fromkeys(("evaluate", "export"), hold_file),
}
# What the command would do for a long time before it writes.
WORK = {
    "pretrain": "speechssl.train.pretrain.fit",
    "finetune": "speechssl.train.finetune.fit",
    "emotion": "speechssl.experiments.emotion.FeatureBank",
    "asr": "speechssl.experiments.asr.Ngrams",
    "evaluate": "speechssl.experiments.evaluate.evaluate",
    "export": "speechssl.interop.export.export_model",
    "report": "speechssl.report.html._page",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared corpus with classes and transcripts, an encoder that was never trained, and results."""
    folder = tmp_path_factory.mktemp("place")
    spoken_corpus(folder)
    save_model(folder / "encoder", SpeechEncoder(changed(MICRO_ENCODER, conv=EXPORTABLE)))
    (folder / "micro.toml").write_text(dump_config(MICRO))
    write_results([ResultRow("emotion", "a", "", 5, "UAR", 0.5, 0.4, 0.6, 10, 1)], folder / "probed" / "results.json")
    return folder


@pytest.fixture
def run(place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command with its output at a place; gives what it said."""
    monkeypatch.chdir(place)

    def runs(name: str, out: Path, *, code: int = 0) -> str:
        capfd.readouterr()
        found = cli.main(shlex.split(COMMANDS[name].replace("OUT", str(out))))
        said = capfd.readouterr().err
        assert found == code, said
        return said

    return runs


def last_line(said: str) -> str:
    lines = said.splitlines()
    assert [line.startswith("speechssl: ") for line in lines].count(True) == 1, said
    return lines[-1]


def content(out: Path) -> dict[str, object]:
    """Every file of an output, without what tells of the clock, the command or TensorBoard."""
    found: dict[str, object] = {}
    for path in sorted(each for each in out.rglob("*") if each.is_file() and "tensorboard" not in each.parts):
        name = str(path.relative_to(out))
        if path.name == "results.json":
            found[name] = [{**asdict(row), "command": ""} for row in read_results(path)]
        elif path.name == "log.jsonl":
            rows = map(json.loads, path.read_text().splitlines())
            found[name] = [
                {key: value for key, value in row.items() if key not in ("seconds_per_second", "wait_share")}
                for row in rows
            ]
        elif path.parent.name == "cells":
            found[name] = {**json.loads(path.read_text()), "seconds": 0}
        elif path.suffix in (".safetensors", ".html", ".toml", ".npz"):
            found[name] = path.read_bytes().replace(str(out).encode(), b"OUT")
        else:
            found[name] = None
    return found


@pytest.mark.parametrize("name", HOLDS)
def test_a_second_one_is_refused_at_once(
    name: str, run: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    target = out / "results.json" if name == "evaluate" else out
    monkeypatch.setattr(WORK[name], _must_not_run)
    with HOLDS[name](target):
        before = sorted(each.name for each in tmp_path.rglob("*"))
        line = last_line(run(name, out, code=2))
        assert line.startswith(f"speechssl: {target}: another process is writing there")
        assert sorted(each.name for each in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", HOLDS)
def test_a_command_holds_its_output_while_it_works(
    name: str, run: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    target = out / "results.json" if name == "evaluate" else out

    def second(*_: object, **__: object) -> None:
        with HOLDS[name](target):
            pass

    monkeypatch.setattr(WORK[name], second)  # what the command would do, tries to hold the output too
    assert "another process is writing there" in last_line(run(name, out, code=2))


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("reason", ["read-only", "no place"])
def test_a_place_that_takes_no_file_is_named_before_the_work(
    name: str, reason: str, run: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WORK[name], _must_not_run)
    out = Path("/proc/speechssl") if reason == "no place" else tmp_path / "out"
    if reason == "read-only":
        out.mkdir()
        _read_only(tmp_path, monkeypatch)
    line = last_line(run(name, out, code=2))
    assert line.startswith(f"speechssl: {out}")
    assert line.endswith("Read-only file system" if reason == "read-only" else "No such file or directory")


def _must_not_run(*_: object, **__: object) -> None:
    raise AssertionError("the work has begun")


def _read_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be made below a folder. Permissions would not stop root, who runs tests in containers."""

    def guarded(name: str) -> None:
        function = getattr(os, name)

        def refuses(path: object, *args: object, **more: object) -> object:
            making = name == "mkdir" or (args and isinstance(args[0], int) and args[0] & os.O_CREAT)
            if making and Path(os.fsdecode(path)).is_relative_to(folder):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), os.fsdecode(path))
            return function(path, *args, **more)

        monkeypatch.setattr(os, name, refuses)

    guarded("mkdir")
    guarded("open")


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, dict[str, object]]:
    """What each command gives where nothing goes wrong."""
    return {}


@pytest.fixture
def afterwards(
    run: Callable[..., str], tmp_path: Path, undisturbed: dict[str, dict[str, object]]
) -> Callable[[str, Path], None]:
    """Checks that the same command now gives what it would have given."""

    def check(name: str, out: Path) -> None:
        run(name, out)
        if name not in undisturbed:
            run(name, tmp_path / "whole")
            undisturbed[name] = content(tmp_path / "whole")
        assert content(out) == undisturbed[name]

    return check


def slow(*values: object) -> object:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("name", "size"),  # bytes that a file may have: they decide which is the first that does not fit
    [
        slow("pretrain", 150_000),
        slow("pretrain", 60_000),
        slow("pretrain", 5000),
        ("finetune", 150_000),
        slow("finetune", 60_000),
        slow("finetune", 5000),
        slow("asr", 60_000),
        ("export", 60_000),
        ("report", 5000),
    ],
)
def test_a_full_disk_names_the_file_and_loses_nothing(
    name: str, size: int, run: Callable[..., str], tmp_path: Path, afterwards: Callable[[str, Path], None]
) -> None:
    out = tmp_path / "out"
    with files_of_at_most(size):
        line = last_line(run(name, out, code=2))
    assert line.endswith(": File too large")
    assert line.startswith(f"speechssl: {tmp_path}/")
    afterwards(name, out)


@pytest.mark.parametrize(
    ("name", "number"),  # of the file that cannot be flushed to the disk
    [
        slow("pretrain", 0),
        slow("pretrain", 3),
        slow("finetune", 0),
        slow("finetune", 4),
        ("emotion", 0),
        ("emotion", 2),
        slow("evaluate", 0),
        slow("evaluate", 2),
        slow("asr", 1),
        ("export", 2),
    ],
)
def test_no_space_when_a_file_is_flushed(
    name: str,
    number: int,
    run: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    afterwards: Callable[[str, Path], None],
) -> None:
    out, count, flush = tmp_path / "out", itertools.count(), os.fsync

    def full(handle: int) -> None:
        if next(count) >= number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        line = last_line(run(name, out, code=2))
    assert line.endswith(": No space left on device")
    assert line.startswith(f"speechssl: {tmp_path}/")
    afterwards(name, out)
