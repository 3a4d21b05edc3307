"""Length of a run: by updates or by time, prolonged from before its cooldown, with averaged weights."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from speechssl.config import UserError
from speechssl.models.encoder import SpeechEncoder
from speechssl.train import loop, progress, trainer
from speechssl.train.optim import AdamWConfig, schedule
from speechssl.train.pretrain import pretrain
from speechssl.train.timeline import Timeline, parse_time
from tests.toys import MICRO_RUN, changed
from tests.train.conftest import rows, tensors

WSD = changed(MICRO_RUN, optim__schedule="wsd", loop__validate_every=5, loop__steps=10)


@pytest.mark.parametrize(
    "line",
    [
        Timeline(100.0, turn=0.8),
        Timeline(100.0, turn=0.8, start=40.0, begun=0.8),
        Timeline(100.0, turn=0.8, start=90.0, begun=0.3),
        Timeline(100.0, turn=0.8, start=30.0, begun=0.6),
    ],
)
def test_progress_is_continuous_and_never_steps_back(line: Timeline) -> None:
    positions = [line.start + (100.0 - line.start) * i / 1000 for i in range(1001)]
    progress = [line.progress(each) for each in positions]
    steps = [after - before for before, after in pairwise(progress)]
    assert (progress[0], progress[-1]) == (line.begun, 1.0)
    assert min(steps) >= 0
    assert max(steps) < 0.01
    assert line.progress(1e9) == 1.0


def test_a_run_without_a_prolongation_is_its_share() -> None:
    assert [Timeline(7.0, turn=0.8).progress(float(i)) for i in range(8)] == [i / 7 for i in range(8)]


def test_a_longer_run_continues_from_before_the_cooldown(corpus: Path, tmp_path: Path) -> None:
    """Its weights are those of the first run at the turn, and the rate of the constant phase stays constant."""
    out = tmp_path / "run"
    first = pretrain([corpus], out, config=WSD)
    assert (first.finished, first.steps) == (True, 10)
    kept = torch.load(out / "stable.pt", weights_only=True)
    assert (kept["progress"]["step"], kept["progress"]["progress"]) == (8, 0.8)
    finished = (out / "model.safetensors").read_bytes()

    longer = changed(WSD, loop__steps=20)
    assert pretrain([corpus], out, config=longer).steps == 20
    log = [row for row in rows(out) if "lr" in row]
    assert [row["step"] for row in log] == list(range(1, 21))
    assert [row["lr"] for row in log[1:15]] == [2e-3] * 14
    assert all(0 < row["lr"] < 2e-3 for row in log[16:19])
    assert log[-1]["lr"] == pytest.approx(0.0, abs=1e-15)
    temperatures = [row["temperature"] for row in log]
    assert temperatures == sorted(temperatures, reverse=True)  # no schedule steps back
    assert (out / "model.safetensors").read_bytes() != finished
    assert torch.load(out / "stable.pt", weights_only=True)["progress"]["step"] == 16


@pytest.mark.slow
@pytest.mark.usefixtures("two_threads")
def test_a_prolonged_run_resumes_to_the_last_bit(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    longer = changed(WSD, loop__steps=18)
    for name in ("whole", "stopped"):
        pretrain([corpus], tmp_path / name, config=WSD)
    pretrain([corpus], tmp_path / "whole", config=longer)
    with monkeypatch.context() as patch:
        counted = iter(range(1, 100))
        patch.setattr(loop, "any_rank", lambda flag, device: flag or next(counted) == 4)
        assert not pretrain([corpus], tmp_path / "stopped", config=longer).finished
    assert pretrain([corpus], tmp_path / "stopped", config=longer).finished
    ours, theirs = tensors(tmp_path / "stopped"), tensors(tmp_path / "whole")
    assert [name for name, value in theirs.items() if not torch.equal(ours[name], value)] == []


def test_a_stopped_run_is_prolonged_from_where_it_is(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        counted = iter(range(1, 100))
        patch.setattr(loop, "any_rank", lambda flag, device: flag or next(counted) == 3)
        pretrain([corpus], tmp_path / "run", config=WSD)
    pretrain([corpus], tmp_path / "run", config=changed(WSD, loop__steps=15))
    log = [row for row in rows(tmp_path / "run") if "temperature" in row and "lr" in row]
    assert [row["step"] for row in log] == list(range(1, 16))
    progress = Timeline(15.0, turn=0.8, start=3.0, begun=0.3)
    expected = [2 * 0.25 ** min(1, progress.progress(float(step)) / 0.7) for step in range(3, 15)]
    assert [row["temperature"] for row in log[3:]] == pytest.approx(expected)


def test_what_cannot_be_prolonged(corpus: Path, tmp_path: Path) -> None:
    pretrain([corpus], tmp_path / "linear", config=changed(MICRO_RUN, loop__steps=4))
    with pytest.raises(UserError, match=r"loop.steps.*only runs with optim.schedule=wsd can be prolonged"):
        pretrain([corpus], tmp_path / "linear", config=changed(MICRO_RUN, loop__steps=8))
    pretrain([corpus], tmp_path / "wsd", config=WSD)
    recipe = (tmp_path / "wsd" / "recipe.toml").read_bytes()
    for fewer in (6, 9, 10 - 1):
        with pytest.raises(
            UserError, match=rf"wsd: the run has 10 updates behind it; given {fewer} updates, allowed: more"
        ):
            pretrain([corpus], tmp_path / "wsd", config=changed(WSD, loop__steps=fewer))
    stable = tmp_path / "wsd" / "stable.pt"
    stable.write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"stable.pt.*its length of 10 updates the run can be resumed, not prolonged"):
        pretrain([corpus], tmp_path / "wsd", config=changed(WSD, loop__steps=20))
    stable.unlink()
    with pytest.raises(UserError, match=r"stable.pt: missing: .* its length of 10 updates, not prolonged"):
        pretrain([corpus], tmp_path / "wsd", config=changed(WSD, loop__steps=20))
    assert (tmp_path / "wsd" / "recipe.toml").read_bytes() == recipe
    with pytest.raises(UserError, match=r"loop.budget.*only runs with optim.schedule=wsd can be prolonged"):
        pretrain([corpus], tmp_path / "linear", config=changed(MICRO_RUN, loop__steps=4, loop__budget=8.0))


@pytest.mark.slow
@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("stop", [pytest.param(7, marks=pytest.mark.slow), 8, pytest.param(9, marks=pytest.mark.slow)])
def test_a_kill_at_the_turn_does_not_change_a_prolonged_run(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    """A checkpoint before, at and after the last update of the constant phase."""
    config, longer = changed(WSD, loop__checkpoint_every=1), changed(WSD, loop__steps=14, loop__checkpoint_every=1)
    pretrain([corpus], tmp_path / "whole", config=config)
    with monkeypatch.context() as patch:
        counted = iter(range(1, 100))
        patch.setattr(loop, "any_rank", lambda flag, device: flag or next(counted) == stop)
        pretrain([corpus], tmp_path / "stopped", config=config)
    if stop == 8:
        (tmp_path / "stopped" / "stable.pt").unlink(missing_ok=True)  # as killed before it was written
    for name in ("stopped", "whole", "stopped"):
        pretrain([corpus], tmp_path / name, config=longer if name == "whole" or stop == 0 else config)
    pretrain([corpus], tmp_path / "stopped", config=longer)
    ours, theirs = tensors(tmp_path / "stopped"), tensors(tmp_path / "whole")
    assert [name for name, value in theirs.items() if not torch.equal(ours[name], value)] == []
    assert [row["lr"] for row in rows(tmp_path / "stopped") if "lr" in row][1:11] == [2e-3] * 10


@pytest.mark.slow
def test_an_update_that_stalls_over_the_turn_leaves_the_rate_of_the_constant_phase(
    corpus: Path, tmp_path: Path, clock: "Clock"
) -> None:
    clock.stalled = 12  # this update takes 40 s: from progress .6 to .95
    pretrain([corpus], tmp_path / "run", config=changed(WSD, loop__budget=120.0))
    kept = torch.load(tmp_path / "run" / "stable.pt", weights_only=True)["progress"]
    assert not kept["cooled"]
    clock.stalled = -1
    pretrain([corpus], tmp_path / "run", config=changed(WSD, loop__budget=400.0))
    log = [row for row in rows(tmp_path / "run") if "lr" in row and row["step"] > kept["step"]]
    assert len([row for row in log if row["lr"] == 2e-3]) > len(log) / 2
    validations = [row["step"] for row in rows(tmp_path / "run") if row.get("valid") and row["step"] > kept["step"]]
    assert len(validations) > 8  # in the constant phase, too


def test_a_run_that_stopped_early_is_prolonged(corpus: Path, tmp_path: Path) -> None:
    config = changed(WSD, loop__patience=1, loop__validate_every=2, optim__reference_lr=1e-9, loop__steps=40)
    first = pretrain([corpus], tmp_path / "run", config=config)
    assert first.steps < 40
    assert pretrain([corpus], tmp_path / "run", config=changed(config, loop__steps=60)).steps > first.steps


def test_a_prolonged_run_says_where_it_continues(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrain([corpus], tmp_path / "run", config=WSD)
    pretrain([corpus], tmp_path / "run", config=changed(WSD, loop__steps=12))
    said = " ".join(capsys.readouterr().err.split())
    assert "run: continues from step 8; 2 updates of the cooldown are made again" in said


class Clock:
    """Time that passes only where a test says so."""

    def __init__(self) -> None:
        self.now, self.stalled = 100.0, -1

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Updates take 3 s, and 9 s from the 8th on, when another program runs; a validation takes 2 s."""
    clock, update, validate = Clock(), trainer.update_weights, trainer.validate

    def updated(*args: Any, **kwargs: Any) -> float:
        clock.now += 40.0 if len(made) == clock.stalled else 9.0 if len(made) >= 7 and clock.stalled < 0 else 3.0
        made.append(1)
        return update(*args, **kwargs)

    def validated(*args: Any, **kwargs: Any) -> Any:
        clock.now += 2.0
        return validate(*args, **kwargs)

    made: list[int] = []
    monkeypatch.setattr(trainer, "time", clock)
    monkeypatch.setattr(trainer, "update_weights", updated)
    monkeypatch.setattr(trainer, "validate", validated)
    return clock


@pytest.mark.slow
def test_a_budget_ends_in_time_with_every_schedule_at_its_end(corpus: Path, tmp_path: Path, clock: Clock) -> None:
    config = changed(MICRO_RUN, loop__budget=180.0, optim__schedule="wsd")
    result = pretrain([corpus], tmp_path / "run", config=config)
    taken = clock.now - 100.0
    assert result.finished
    assert 0.93 * 180 <= taken <= 1.07 * 180
    log = [row for row in rows(tmp_path / "run") if "lr" in row]
    assert result.steps == log[-1]["step"] == len(log) > 10
    assert log[-1]["lr"] < 0.4 * log[5]["lr"]
    temperatures = [row["temperature"] for row in log]
    assert temperatures == sorted(temperatures, reverse=True)
    validations = [row for row in rows(tmp_path / "run") if row.get("valid")]
    assert 8 <= len(validations) <= 20

    again = pretrain([corpus], tmp_path / "run", config=config)  # a finished run stays as it is
    assert (again.finished, again.steps) == (True, result.steps)
    longer = pretrain([corpus], tmp_path / "run", config=changed(config, loop__budget=300.0))
    assert longer.steps > result.steps


def test_the_time_left_of_a_budget_is_what_is_not_used(
    corpus: Path, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "PLAIN_EVERY", -1.0)
    pretrain([corpus], tmp_path / "run", config=changed(MICRO_RUN, loop__budget=60.0))
    left = [float(each) for each in re.findall(r"([\d.]+) min left", capsys.readouterr().err)]
    assert left[0] == pytest.approx(1.0, abs=0.11)
    assert left == sorted(left, reverse=True)
    assert left[-1] < 0.11


@pytest.mark.slow
def test_a_stopped_budget_counts_the_time_before(
    corpus: Path, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = changed(MICRO_RUN, loop__budget=100.0)
    with monkeypatch.context() as patch:
        counted = iter(range(1, 100))
        patch.setattr(loop, "any_rank", lambda flag, device: flag or next(counted) == 6)
        assert not pretrain([corpus], tmp_path / "run", config=config).finished
    clock.now += 1e6  # the pause does not count
    before = clock.now
    assert pretrain([corpus], tmp_path / "run", config=config).finished
    assert 60 <= clock.now - before <= 90


@pytest.mark.slow
def test_a_slow_run_writes_checkpoints_by_the_clock(corpus: Path, tmp_path: Path, clock: Clock) -> None:
    saved: list[int] = []
    save = trainer.save_checkpoint

    def saving(path: Path, state: dict[str, Any]) -> None:
        saved.append(state["progress"]["step"])
        save(path, state)

    config = changed(MICRO_RUN, loop__steps=120, loop__checkpoint_every=1000, loop__validate_every=1000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "save_checkpoint", saving)
        pretrain([corpus], tmp_path / "run", config=config)
    gaps = [after - before for before, after in pairwise(saved) if after > before]
    assert len(gaps) >= 3
    assert max(gaps) <= 36  # of 9 s each: five minutes and an update


def test_the_saved_weights_are_the_average(corpus: Path, tmp_path: Path) -> None:
    """A moving average made by hand from the checkpoints after each update."""
    config = changed(MICRO_RUN, optim__average=0.9, loop__steps=6, loop__checkpoint_every=1, loop__validate_every=10)
    states: list[dict[str, torch.Tensor]] = []
    save = trainer.save_checkpoint

    def saving(path: Path, state: dict[str, Any]) -> None:
        if path.name == "last.pt":
            states.append({name: value.clone() for name, value in state["model"].items()})
        save(path, state)

    torch.manual_seed(config.seed)
    first = SpeechEncoder(config.encoder).projection.weight.detach().clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "save_checkpoint", saving)
        pretrain([corpus], tmp_path / "run", config=config)
    name = "encoder.projection.weight"
    last = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    saved = load_file(tmp_path / "run" / "model.safetensors")["encoder.projection.weight"]
    assert torch.equal(saved, last["average"][f"module.{name}"])
    assert len(states) == 6
    expected = first
    for step, each in enumerate(states):
        decay = min(0.9, (1 + step) / (10 + step))
        expected = expected + (1 - decay) * (each[name] - expected)
    torch.testing.assert_close(saved, expected, rtol=1e-5, atol=1e-7)
    assert not torch.equal(saved, last["model"][name])


@pytest.mark.slow
def test_the_average_resumes_to_the_last_bit(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = changed(MICRO_RUN, optim__average=0.9, loop__steps=8)
    pretrain([corpus], tmp_path / "whole", config=config)
    with monkeypatch.context() as patch:
        counted = iter(range(1, 100))
        patch.setattr(loop, "any_rank", lambda flag, device: flag or next(counted) == 3)
        pretrain([corpus], tmp_path / "stopped", config=config)
    pretrain([corpus], tmp_path / "stopped", config=config)
    ours, theirs = tensors(tmp_path / "stopped"), tensors(tmp_path / "whole")
    assert any(name.startswith("/average/") for name in theirs)
    assert [name for name, value in theirs.items() if not torch.equal(ours[name], value)] == []


def test_the_cooldown_must_fit() -> None:
    with pytest.raises(ValueError, match=r"warmup 0\.5 and cooldown 0\.6 are more than the whole run"):
        AdamWConfig(schedule="wsd", warmup=0.5, cooldown=0.6)
    assert schedule(0.99, AdamWConfig(schedule="wsd", cooldown=0.01)) == 1.0


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90.0), ("20min", 1200.0), ("1.5 h", 5400.0), ("1h30min", 5400.0), ("2d", 172800.0)]
)
def test_a_budget_is_a_time(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "20", "min", "-3h", "3 weeks", "0s", "1h 2", "nan h"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(UserError, match=f"--budget: given {text!r}, allowed: a time such as 90s, 20min, 3h or 1h30min"):
        parse_time(text)
