"""A run that is killed or stopped at any moment and started again ends as one that never was: bit for bit."""

import json
import os
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from speechssl.config import UserError
from speechssl.models.storage import load_encoder, read_model_config
from speechssl.train.checkpoint import load_checkpoint
from speechssl.train.run_log import truncate_log
from tests.toys import MICRO_RUN, NO_DROPOUT, changed
from tests.train.conftest import Processes, rows, tensors

# With dropout, layer drop and accumulation: whatever draws at random is in it.
CONFIG = changed(
    MICRO_RUN,
    loop__steps=15,
    loop__accumulation=2,
    loop__validate_every=5,
    loop__checkpoint_every=3,
    encoder__transformer__layer_drop=0.2,
)
SHORT = changed(MICRO_RUN, loop__steps=4, loop__validate_every=2, loop__checkpoint_every=2, loop__validate_batches=1)


@dataclass(frozen=True)
class Reference:
    """A run that nobody disturbed, and how long it took after its first step."""

    out: Path
    seconds: float


def assert_same_run(out: Path, expected: Path) -> None:
    """Weights, optimiser, health, counters, log and model are those of the other run."""
    for name in ("last.pt", "best.pt"):
        ours, theirs = tensors(out, name), tensors(expected, name)
        assert ours.keys() == theirs.keys()
        assert [key for key, value in theirs.items() if not torch.equal(ours[key], value)] == []
    states = [load_checkpoint(folder / "last.pt") or {} for folder in (out, expected)]
    for state in states:
        state["progress"].pop("wall_seconds")
    assert states[0]["progress"] == states[1]["progress"]
    assert states[0]["health"] == states[1]["health"]
    assert rows(out) == rows(expected)
    assert (out / "model.safetensors").read_bytes() == (expected / "model.safetensors").read_bytes()
    steps = [read_model_config(folder)["provenance"]["steps"] for folder in (out, expected)]
    assert steps[0] == steps[1]
    assert list(out.glob(".*")) == []  # no half-written file is left


@pytest.fixture(scope="module")
def reference(processes: Processes, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    out = tmp_path_factory.mktemp("reference") / "run"
    run = processes.pretrain(corpus, out, CONFIG)
    run.wait_for_row(out, 1)
    begin = time.monotonic()
    run.finish()
    return Reference(out, time.monotonic() - begin)


@pytest.fixture(scope="module")
def short_reference(processes: Processes, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("short") / "run"
    processes.pretrain(corpus, out, SHORT).finish()
    return out


@pytest.mark.slow
def test_a_second_run_in_the_same_folder_ends_at_once_and_harms_nothing(
    processes: Processes, corpus: Path, reference: Reference, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    first = processes.pretrain(corpus, out, CONFIG)
    first.wait_for_row(out, 1)
    second = processes.pretrain(corpus, out, CONFIG)
    assert second.wait() == 2
    assert f"speechssl: {out}: another process is writing there" in second.said.read_text()
    first.finish()
    assert_same_run(out, reference.out)


def test_the_reference_trains(reference: Reference) -> None:
    train = [row for row in rows(reference.out) if "valid" not in row]
    assert [row["step"] for row in train] == list(range(1, 16))
    assert [row["step"] for row in rows(reference.out) if "valid" in row] == [5, 10, 15]
    assert len({row["loss"] for row in train}) == 15


@pytest.mark.slow
def test_killed_at_random_moments(processes: Processes, corpus: Path, reference: Reference, tmp_path: Path) -> None:
    """SIGKILL at random steps and at a random moment within each; four times in the life of one run."""
    rng = np.random.default_rng(0)
    out, killed = tmp_path / "run", 0
    for step in sorted(rng.choice(np.arange(1, 13), 4, replace=False).tolist()):
        run = processes.pretrain(corpus, out, CONFIG)
        run.wait_for_row(out, step)
        time.sleep(2 * rng.random() * reference.seconds / CONFIG.loop.steps)
        killed += run.kill() == -signal.SIGKILL  # a busy machine may wake up when all is over
    processes.pretrain(corpus, out, CONFIG).finish()
    assert killed > 0
    assert_same_run(out, reference.out)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_asked_to_stop(processes: Processes, corpus: Path, reference: Reference, tmp_path: Path, number: int) -> None:
    out = tmp_path / "run"
    run = processes.pretrain(corpus, out, CONFIG, signal=(number, 7))
    assert run.wait() == 130, run.said.read_text()
    state = load_checkpoint(out / "last.pt")
    assert state is not None
    assert state["progress"]["step"] == rows(out)[-1]["step"] == 7  # nothing that was done is lost
    assert "stopped at step 7; run the same command again to resume" in run.said.read_text()
    assert "Traceback" not in run.said.read_text()
    assert load_encoder(out).config == CONFIG.encoder
    processes.pretrain(corpus, out, CONFIG).finish()
    assert_same_run(out, reference.out)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler here")
def test_a_compiled_run_resumes_bit_for_bit(processes: Processes, corpus: Path, tmp_path: Path) -> None:
    """And its losses are those of a run that is not compiled; without dropout, which draws otherwise when compiled."""
    plain = changed(SHORT, **{f"encoder__{name}": value for name, value in NO_DROPOUT.items()})
    compiled = changed(plain, loop__compile=True)
    whole, out, eager = tmp_path / "whole", tmp_path / "run", tmp_path / "eager"
    processes.pretrain(corpus, eager, plain).finish()
    processes.pretrain(corpus, whole, compiled).finish()
    run = processes.pretrain(corpus, out, compiled, signal=(signal.SIGTERM, 3))
    assert run.wait() == 130, run.said.read_text()
    processes.pretrain(corpus, out, compiled).finish()
    assert_same_run(out, whole)
    for row, expected in zip(rows(whole), rows(eager), strict=True):
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-4), row["step"]


# The places where files become permanent. A first run writes recipe.toml, data.json and metrics.json (flush, rename:
# 0 to 5), then with each of the two checkpoints best.pt, training_audio.json, model.safetensors, config.json and
# last.pt (6 to 15 and 16 to 25).
@pytest.mark.parametrize(
    "event",
    [pytest.param(event, marks=() if event in (9, 24) else pytest.mark.slow) for event in [*range(1, 24, 2), 24, 25]],
)
def test_killed_between_the_files_of_a_checkpoint(
    processes: Processes, corpus: Path, short_reference: Path, tmp_path: Path, event: int
) -> None:
    out = tmp_path / "run"
    assert processes.pretrain(corpus, out, SHORT, die_before=event).wait() == -signal.SIGKILL
    if (out / "last.pt").exists():  # whatever there is is whole, and the model is no older than the checkpoint
        state = load_checkpoint(out / "last.pt")
        assert state is not None
        assert read_model_config(out)["provenance"]["steps"] >= state["progress"]["step"]
        load_encoder(out)
    if (out / "best.pt").exists():
        load_checkpoint(out / "best.pt")
    processes.pretrain(corpus, out, SHORT).finish()
    assert_same_run(out, short_reference)


def test_all_these_places_were_tried(processes: Processes, corpus: Path, short_reference: Path, tmp_path: Path) -> None:
    """One more would be after the end: a checkpoint with other files needs other numbers above."""
    run = processes.pretrain(corpus, tmp_path / "run", SHORT, die_before=26)
    run.finish()
    assert_same_run(tmp_path / "run", short_reference)


def test_a_finished_run_is_left_alone(processes: Processes, corpus: Path, short_reference: Path) -> None:
    before = {path.name: path.read_bytes() for path in short_reference.iterdir() if path.is_file()}
    processes.pretrain(corpus, short_reference, SHORT).finish()
    after = {path.name: path.read_bytes() for path in short_reference.iterdir() if path.is_file()}
    assert before == after


# What a user may find or do


@pytest.mark.slow
@pytest.mark.parametrize("tail", ['{"step": 3, "lo', '{"step": 3, "loss": 1.0}\n{"step": 4, "loss": 1.0}\n{"st', ""])
def test_half_a_line_of_the_log(
    processes: Processes, corpus: Path, short_reference: Path, tmp_path: Path, tail: str
) -> None:
    out = tmp_path / "run"
    processes.pretrain(corpus, out, SHORT, die_before=12).wait()  # after the checkpoint of step 2
    log = out / "log.jsonl"
    whole = [line for line in log.read_text().splitlines(keepends=True) if json.loads(line)["step"] <= 2]
    log.write_text("".join(whole) + tail)
    processes.pretrain(corpus, out, SHORT).finish()
    assert_same_run(out, short_reference)


def test_the_log_is_cut_behind_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise OSError("killed")

    path = tmp_path / "log.jsonl"
    truncate_log(path, 3)  # no log, nothing to do
    assert not path.exists()
    lines = [f'{{"step": {step}, "loss": 1.5}}\n' for step in (1, 2, 3)]
    path.write_text("".join(lines) + '{"valid": true, "step": 3}\n{"step": 4}\n{"step": 5, "x": ')
    truncate_log(path, 3)
    assert path.read_text() == "".join(lines) + '{"valid": true, "step": 3}\n'
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(OSError, match="killed"):
            truncate_log(path, 1)
    assert path.read_text().count("\n") == 4  # killed while cutting it: the log is whole
    path.write_text('{"step": 3}')  # whole but for the end of its line
    truncate_log(path, 3)
    assert path.read_text() == '{"step": 3}\n'


def one_line(text: str) -> str:
    """The only line that begins with the program's name."""
    [line] = [line for line in text.splitlines() if line.startswith("speechssl: ")]
    assert "Traceback" not in text
    return line


def test_changed_settings_are_refused_in_one_line(processes: Processes, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    processes.pretrain(corpus, out, changed(SHORT, loop__steps=2)).finish()
    before = (out / "recipe.toml").read_text()
    run = processes.pretrain(corpus, out, changed(SHORT, loop__steps=2, optim__max_lr=1e-4))
    assert run.wait() == 2
    line = one_line(run.said.read_text())
    assert "other settings" in line
    assert "optim.max_lr" in line
    assert (out / "recipe.toml").read_text() == before


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "text"])
def test_a_damaged_checkpoint_is_one_line(
    processes: Processes, corpus: Path, short_reference: Path, tmp_path: Path, damage: str
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    whole = (short_reference / "last.pt").read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4  # in the middle of the weights
    damaged = {"empty": b"", "cut": whole[: len(whole) // 3], "flipped": bytes(flipped), "text": b"no checkpoint\n"}
    (out / "last.pt").write_bytes(damaged[damage])
    for name in ("recipe.toml", "data.json"):
        (out / name).write_bytes((short_reference / name).read_bytes())
    run = processes.pretrain(corpus, out, SHORT)
    assert run.wait() == 2, run.said.read_text()
    assert str(out / "last.pt") in one_line(run.said.read_text())


def test_every_cut_of_a_checkpoint_is_recognised(short_reference: Path, tmp_path: Path) -> None:
    whole = (short_reference / "last.pt").read_bytes()
    path = tmp_path / "last.pt"
    for length in np.linspace(0, len(whole) - 1, 60).astype(int).tolist():
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="not a readable checkpoint"):
            load_checkpoint(path)
    torch.save([1.0], path)
    with pytest.raises(UserError, match="holds a list"):
        load_checkpoint(path)
    assert load_checkpoint(tmp_path / "none.pt") is None
