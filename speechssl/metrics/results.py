"""Result rows: storage, the clear winner of a column, and summaries against the baselines.

`results.json` is a list of objects, one per row. Experiments write it and the report reads it; both find winners and
losers with the functions here, so that the terminal and the page agree.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import pydantic

from speechssl.config import UserError
from speechssl.files import write_atomic
from speechssl.metrics.probe_splits import PROBE_TASKS

MODEL, RANDOM, MFCC, LOGMEL, CHANCE = "model", "random encoder", "MFCC", "log-mel", "chance"
"""Families of contenders. A contender is a family or "FAMILY (which layer)"."""
ABX, ABX_ERROR, EFFECTIVE_RANK = "abx", "ABX error", "effective rank"
"""Task of measurements of frames against a phone alignment, and its metrics."""
VERIFICATION, EER = "verification", "EER"
"""Task of speaker verification by similarity, and its metric, the equal error rate."""
LOWER_IS_BETTER = ("WER", "CER", "PER", ABX_ERROR, EER)


Count = Annotated[int, pydantic.Field(ge=0, le=2**53)]
Difference = Annotated[list[float], pydantic.Field(min_length=3, max_length=3)]  # value, low, high


@dataclass(frozen=True)
class ResultRow:
    """One score of one contender.

    Attributes:
        task: of a probe `label`, `speaker` or `text`; `abx`: frames against a phone alignment; `verification`: whether
            two recordings are of one speaker; else what was learned, for example `emotion` or `asr`.
        contender: the features, for example `model (last layer)` or `MFCC`, or the whole method.
        probe: `k-NN`, `logistic`, or `none` for chance; of ABX errors `within` or `across` (speakers), of effective
            ranks `frames`; empty where the contender is a whole method.
        labels: amount of labels, in `unit`; 0 for everything on the training side.
        metric: `UAR`, `WA`, `macro F1`, `WER`, `CER`, `ABX error`, `effective rank` or `EER`.
        value: mean over seeds.
        low: lower end of the 95 % interval; the value itself where there is none, as of ABX errors.
        high: upper end.
        n: test utterances, summed over seeds; of ABX errors triples, of effective ranks frames, of EER trials.
        seeds: repetitions.
        split: what is disjoint between training and test.
        classes: number of classes, of phones, or of the speakers of verification.
        command: the command line that produced the row.
        gains: per baseline: how much better this value is, with the ends of the paired interval. This value minus the
            baseline's, and for error rates the baseline's minus this: above zero is better for every metric.
        corpus: name of the prepared corpus.
        synthetic: whether the speech is synthesised.
        unit: of `labels`: `shots` (labelled utterances per class), `minutes` (of transcribed speech), or empty where
            nothing is learned from labels.
        split_hash: sixteen hexadecimal digits of the training and test sides; equal where two rows can be compared.
        model_hash: sixteen hexadecimal digits of the encoder; empty where there is none.
        training_audio: of a fine-tuned model: `known, no copy sample by sample` where its training audio is known and
            no copy of it is in the test side, or `unknown`; empty for other rows.
        pretraining_audio: how many test utterances are in the audio that the encoder was pretrained on, compared sample
            by sample, in words, `at least` so many where other cuts may be among the rest, or `unknown`; empty where
            there is no pretrained encoder.
        left_out: test utterances left out because the model was trained on them or on their speakers.
        lm_text: text of the n-gram, test words that it lacks, and how many test transcripts are in it, in words, or
            `unknown`; empty without one.
    """

    # When rows are read, numbers must be finite numbers, not strings: the winner depends on them.
    __pydantic_config__ = pydantic.ConfigDict(strict=True, allow_inf_nan=False)

    task: str
    contender: str
    probe: str
    labels: Count
    metric: str
    value: float
    low: float
    high: float
    n: Count
    seeds: Count
    split: str = ""
    classes: Count = 0
    command: str = ""
    gains: dict[str, Difference] = field(default_factory=dict[str, list[float]])
    corpus: str = ""
    synthetic: bool = False
    unit: str = "shots"
    split_hash: str = ""
    model_hash: str = ""
    training_audio: str = ""
    pretraining_audio: str = ""
    left_out: int = 0
    lm_text: str = ""

    @property
    def is_probe(self) -> bool:
        """Whether the row is of a probe on frozen features, not of a whole experiment with few labels."""
        return self.task in PROBE_TASKS

    @property
    def is_abx(self) -> bool:
        """Whether the row compares frames with a phone alignment."""
        return self.task == ABX

    @property
    def is_verification(self) -> bool:
        """Whether the row is of speaker verification."""
        return self.task == VERIFICATION

    @property
    def amount(self) -> str:
        """Amount of labels, in words.

        >>> from dataclasses import replace
        >>> row = ResultRow("asr", "a", "", 10, "WER", 1.0, 1.0, 1.0, 1, 1, unit="minutes")
        >>> [replace(row, labels=labels).amount for labels in (10, 60, 0)]
        ['10 min', '1 h', 'all']
        """
        if not self.unit:
            return "no labels"
        if self.labels == 0:
            return "all"
        if self.unit == "minutes":
            return f"{self.labels // 60} h" if self.labels % 60 == 0 else f"{self.labels} min"
        return f"{self.labels} {self.unit}"

    @property
    def family(self) -> str:
        """The contender without its layer.

        >>> ResultRow("label", "model (last layer)", "k-NN", 5, "UAR", 0.5, 0.4, 0.6, 10, 1).family
        'model'
        """
        return self.contender.split(" (")[0]


_ROWS = pydantic.TypeAdapter(list[ResultRow])


def write_results(rows: Iterable[ResultRow], path: Path) -> None:
    """Write `results.json`, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, "[\n" + ",\n".join(json.dumps(asdict(row), ensure_ascii=False) for row in rows) + "\n]\n")


def read_results(path: Path) -> list[ResultRow]:
    """Read the rows of `results.json`; unknown keys are ignored.

    Raises:
        UserError: cannot be read, not a list of rows, a row without a required key, or with a value of another type.
    """
    try:
        return _ROWS.validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read as JSON ({' '.join(str(error).split())})") from None
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            raise UserError(f"{path}: cannot be read as JSON ({first['msg']})") from None
        place, *keys = first["loc"] or ("",)
        where = f"row {place + 1}: {''.join(f'{key}: ' for key in keys)}" if isinstance(place, int) else ""
        raise UserError(f"{path}: not a list of result rows ({where}{first['msg']})") from None


def amounts(rows: Iterable[ResultRow]) -> str:
    """Amounts of labels of the rows, in words.

    >>> amounts([ResultRow("emotion", "a", "", labels, "UAR", 1.0, 1.0, 1.0, 1, 1) for labels in (5, 10, 0)])
    '5, 10 shots, all'
    """
    words = [row.amount for row in rows]
    return ", ".join(
        word.removesuffix(" shots") if after.endswith(" shots") else word
        for word, after in zip(words, [*words[1:], ""], strict=True)
    )


def clear_winner(rows: Sequence[ResultRow]) -> str | None:
    """Contender with the best value, if its interval overlaps that of no other family; else None.

    Two layers of one encoder do not compete with each other here.

    >>> a = ResultRow("label", "model (last layer)", "k-NN", 5, "UAR", 0.5, 0.45, 0.55, 10, 1)
    >>> b = ResultRow("label", "MFCC", "k-NN", 5, "UAR", 0.4, 0.35, 0.44, 10, 1)
    >>> c = ResultRow("label", "log-mel", "k-NN", 5, "UAR", 0.46, 0.41, 0.51, 10, 1)
    >>> clear_winner([a, b]), clear_winner([a, b, c])
    ('model (last layer)', None)
    """
    if not rows:
        return None
    best = max(rows, key=lambda row: row.value)
    rivals = [row for row in rows if row.family != best.family]
    return best.contender if rivals and all(row.high < best.low for row in rivals) else None


def columns_of(rows: Iterable[ResultRow], *, task: str, metric: str = "UAR") -> dict[tuple[str, int], list[ResultRow]]:
    """Rows of a task by (probe, shots), in a fixed order; chance is in every column."""
    mine = [row for row in rows if row.task == task and row.metric == metric]
    keys = sorted({(row.probe, row.labels) for row in mine if row.probe != "none"})
    return {key: [row for row in mine if row.labels == key[1] and row.probe in (key[0], "none")] for key in keys}


def abx_columns(rows: Iterable[ResultRow]) -> dict[tuple[str, str], list[ResultRow]]:
    """Rows of a phone alignment by (metric, probe): the errors within and across speakers, and the effective rank."""
    found: dict[tuple[str, str], list[ResultRow]] = {}
    for row in sorted((row for row in rows if row.is_abx), key=lambda row: row.metric != ABX_ERROR):
        found.setdefault((row.metric, row.probe), []).append(row)
    return found


def abx_value(row: ResultRow) -> str:
    """A value of a phone alignment in words: an error in percent, or an effective rank.

    >>> row = ResultRow(ABX, "MFCC", "within", 0, ABX_ERROR, 0.1234, 0.1234, 0.1234, 100, 1, unit="")
    >>> abx_value(row)
    '12.3 %'
    """
    return f"{100 * row.value:.1f} %" if row.metric == ABX_ERROR else f"{row.value:.1f}"


@dataclass(frozen=True)
class BaselineSummary:
    """Wins and losses of the model against one baseline on one task, over all layers, probes and numbers of shots.

    A comparison is won or lost when the 95 % interval of the paired difference excludes zero. `lowest` and `highest`
    are the ends of the differences' values. The random encoder is the one of the same layer.
    """

    task: str
    baseline: str
    wins: int
    losses: int
    total: int
    lowest: float
    highest: float

    @property
    def verdict(self) -> str:
        """`beats`, `loses to`, `is level with`, or `both beats and loses to` (as often one as the other).

        With `partly` before it where at most half of the comparisons have this outcome.
        """
        if self.wins == self.losses:
            return "both beats and loses to" if self.wins else "is level with"
        word = "beats" if self.wins > self.losses else "loses to"
        return word if 2 * max(self.wins, self.losses) > self.total else f"partly {word}"

    @property
    def count(self) -> str:
        """The number of wins and losses, and the range of the differences, in words.

        >>> BaselineSummary("label", "MFCC", wins=5, losses=0, total=6, lowest=0.01, highest=0.12).count
        'wins 5 of 6 comparisons, 1 undecided (+.01 to +.12)'
        """
        undecided = self.total - self.wins - self.losses
        parts = [f"{word} {number}" for word, number in (("wins", self.wins), ("loses", self.losses)) if number]
        words = f"{' and '.join(parts)} of {self.total} comparisons" if parts else f"{self.total} comparisons"
        words += f", {undecided} undecided" if undecided and parts else ", all undecided" if undecided else ""
        return f"{words} ({signed(self.lowest)} to {signed(self.highest)})"


def baseline_summaries(rows: Sequence[ResultRow], *, metric: str = "UAR") -> list[BaselineSummary]:
    """Summaries of the model against the random encoder and the fixed features, one per task and baseline.

    >>> row = ResultRow("label", "model (last layer)", "k-NN", 5, "UAR", 0.5, 0.4, 0.6, 10, 1,
    ...                 gains={"random encoder (last layer)": [0.1, 0.05, 0.15]})
    >>> [(summary.baseline, summary.verdict) for summary in baseline_summaries([row])]
    [('random encoder', 'beats')]
    """
    found: dict[tuple[str, str], list[list[float]]] = {}
    for row in rows:
        for name, gain in row.gains.items():
            if row.metric == metric:
                found.setdefault((row.task, name.split(" (")[0]), []).append(gain)
    return [
        BaselineSummary(
            task=task,
            baseline=baseline,
            wins=sum(outcome(gain) == "beats" for gain in gains),
            losses=sum(outcome(gain) == "loses to" for gain in gains),
            total=len(gains),
            lowest=min(gain[0] for gain in gains),
            highest=max(gain[0] for gain in gains),
        )
        for (task, baseline), gains in found.items()
    ]


def outcome(gain: Sequence[float]) -> str:
    """`beats`, `loses to` or `is level with` (nothing shown), of [value, low, high] of a difference.

    >>> outcome([0.1, 0.05, 0.15])
    'beats'
    """
    _, low, high = gain
    return "beats" if low > 0 else "loses to" if high < 0 else "is level with"


def signed(value: float) -> str:
    """A difference of two scores with its sign and two decimals; the sign stays where rounding leaves zero.

    >>> signed(0.034), signed(-0.2), signed(-0.001), signed(0.0)
    ('+.03', '−.20', '−.00', '±.00')
    """
    sign = "+" if value > 0 else "−" if value < 0 else "±"
    return sign + plain(abs(value))


def plain(value: float) -> str:
    """A score in [0, 1] with two decimals and no leading zero.

    >>> plain(0.256), plain(1.0), plain(float("nan"))
    ('.26', '1.00', '–')
    """
    if math.isnan(value):
        return "–"
    text = f"{value:.2f}"
    return text[1:] if text.startswith("0") else text
