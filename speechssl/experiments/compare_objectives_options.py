"""Options of `compare-objectives` as the command line gives them."""

from collections.abc import Sequence

from speechssl.config import UserError
from speechssl.experiments.compare_objectives_probes import Protocol, read_probe
from speechssl.experiments.compare_objectives_rates import Sweep
from speechssl.experiments.compare_objectives_runs import Length
from speechssl.metrics.objective_results import Budget
from speechssl.objectives import OBJECTIVES, load_objective


def read_length(budget_by: Budget, *, minutes: float | None, hours: float | None) -> Length:
    """The budget of a run: core-minutes for `time`, hours of audio for `audio`.

    Raises:
        UserError: the other one is given, or none.

    >>> read_length("time", minutes=40.0, hours=None)
    Length(budget='time', amount=40.0)
    """
    amount, other = (minutes, hours) if budget_by == "time" else (hours, minutes)
    if amount is None or other is not None:
        needed = "--minutes M, the core-minutes" if budget_by == "time" else "--hours H, the hours of audio"
        raise UserError(f"--budget-by {budget_by} needs {needed} of a run, and no other length")
    return Length(budget_by, amount)


def read_objectives(text: str | None) -> tuple[str, ...]:
    """Names of objectives, separated by commas; None for all.

    Raises:
        UserError: there is no such objective.

    >>> read_objectives("hubert, apc")
    ('hubert', 'apc')
    """
    if text is None:
        return OBJECTIVES
    names = tuple(dict.fromkeys(each.strip() for each in text.split(",")))
    for name in names:
        load_objective(name)
    return names


def read_rates(pairs: Sequence[str]) -> dict[str, float]:
    """Peak learning rates by objective.

    Raises:
        UserError: not NAME=LR with a number above zero.

    >>> read_rates(["hubert=1e-3"])
    {'hubert': 0.001}
    """
    found: dict[str, float] = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        found[name.strip()] = _positive(text, f"--rate {pair}: NAME=LR with a rate above zero, for example hubert=1e-3")
    return found


def read_sweep(factors: str | None, *, minutes: float, judge: str | None, protocol: Protocol) -> Sweep | None:
    """Choice of the rates; None where no factors are given.

    Raises:
        UserError: factors that are no numbers above zero, or no corpus that judges the runs.
    """
    if factors is None:
        if judge is not None:
            raise UserError("--sweep-on needs --rates, such as --rates 0.5,1,2")
        return None
    if judge is None:
        raise UserError("--rates needs --sweep-on CORPUS_DIR, a corpus that no result is reported on")
    words = f"--rates {factors}: factors above zero, separated by commas, for example 0.5,1,2"
    numbers = tuple(dict.fromkeys(_positive(each, words) for each in factors.split(",")))
    return Sweep(numbers, minutes, Protocol([read_probe(judge)], shots=protocol.shots, draws=protocol.draws))


def _positive(text: str, words: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise UserError(words) from None
    if not 0 < value < float("inf"):
        raise UserError(words)
    return value
