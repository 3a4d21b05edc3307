"""The number of micro-batches: measured, never more than fits, and without a trace in the run."""

from pathlib import Path
from typing import Any

import pytest
import torch

from speechssl.config import UserError, load_config
from speechssl.train import find_batch
from speechssl.train.pretrain import pretrain
from tests.toys import MICRO_RUN, changed
from tests.train.conftest import tensors

FOUR = changed(MICRO_RUN, loop__steps=4, loop__checkpoint_every=2)


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """Seconds of an update by its number of parts; infinite ones do not fit."""
    found: dict[int, float] = {}

    class Clock:
        now = 0.0

        def monotonic(self) -> float:
            return self.now

    clock, accumulate = Clock(), find_batch.accumulate

    def timed(*args: Any, parts: int, **kwargs: Any) -> Any:
        if found[parts] == float("inf"):
            raise torch.OutOfMemoryError("no")
        clock.now += found[parts]
        return accumulate(*args, parts=parts, **kwargs)

    monkeypatch.setattr(find_batch, "time", clock)
    monkeypatch.setattr(find_batch, "accumulate", timed)
    return found


def found_in(out: Path) -> int:
    return load_config(type(FOUR), out / "recipe.toml").loop.accumulation


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({1: 3.0, 2: 2.0, 4: 2.5}, 2),
        ({1: float("inf"), 2: float("inf"), 4: 2.5}, 4),
        ({1: 1.0, 2: 2.0, 4: 2.5}, 1),
        ({1: float("inf"), 2: 3.0, 4: 2.0}, 4),
    ],
)
def test_the_fastest_that_fits(
    corpus: Path, tmp_path: Path, costs: dict[int, float], seconds: dict[int, float], expected: int
) -> None:
    costs.update(seconds)
    pretrain([corpus], tmp_path / "run", config=FOUR, find_batch=True)
    assert found_in(tmp_path / "run") == expected


@pytest.mark.slow
@pytest.mark.usefixtures("two_threads")
def test_measuring_leaves_no_trace(corpus: Path, tmp_path: Path, costs: dict[int, float]) -> None:
    costs.update({1: 2.0, 2: 1.0, 4: 2.0})
    pretrain([corpus], tmp_path / "measured", config=FOUR, find_batch=True)
    pretrain([corpus], tmp_path / "given", config=changed(FOUR, loop__accumulation=2))
    ours, theirs = tensors(tmp_path / "measured"), tensors(tmp_path / "given")
    assert [name for name, value in theirs.items() if not torch.equal(ours[name], value)] == []


def test_a_resumed_run_keeps_its_number(corpus: Path, tmp_path: Path, costs: dict[int, float]) -> None:
    costs.update({1: 2.0, 2: 1.0, 4: 2.0})
    pretrain([corpus], tmp_path / "run", config=FOUR, find_batch=True)
    costs.clear()  # measured again, it would fail
    assert pretrain([corpus], tmp_path / "run", config=FOUR, find_batch=True).finished
    with pytest.raises(UserError, match="other settings"):
        pretrain([corpus], tmp_path / "run", config=FOUR)


def test_nothing_fits(corpus: Path, tmp_path: Path, costs: dict[int, float]) -> None:
    costs.update(dict.fromkeys((1, 2, 4), float("inf")))
    with pytest.raises(UserError, match="one crop does not fit into memory"):
        pretrain([corpus], tmp_path / "run", config=FOUR, find_batch=True)
