"""One comparison per task: the model beside the best of its baselines, with the paired gain.

Nothing of the model is chosen by its score: of a probe the logistic regression on the mean of layers with the most
shots. The baseline is the one with the best score, which favours the baselines.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from speechssl.metrics.results import EER, LOWER_IS_BETTER, MODEL, ResultRow, plain, signed

_LAYERS = f"{MODEL} (mean of layers)"


@dataclass(frozen=True)
class Headline:
    """The comparison of a task.

    Attributes:
        model: the row of the model, or of the method that uses it.
        baseline: the row of the baseline with the best score.
    """

    model: ResultRow
    baseline: ResultRow

    @property
    def gain(self) -> list[float]:
        """How much better the model is, with the ends of the paired interval."""
        return self.model.gains[self.baseline.contender]

    @property
    def setting(self) -> str:
        """Task, classifier and amount of labels, in words."""
        parts = (self.model.probe, self.model.amount if self.model.unit else "")
        return ", ".join([self.model.task, *(part for part in parts if part)])

    @property
    def gain_words(self) -> str:
        """The gain with its interval.

        >>> row = ResultRow("label", "model (mean of layers)", "logistic", 5, "UAR", .5, .4, .6, 9, 5,
        ...                 gains={"MFCC": [.1, .02, .2]})
        >>> found = headlines([row, ResultRow("label", "MFCC", "logistic", 5, "UAR", .4, .3, .5, 9, 5)])
        >>> [(each.setting, each.gain_words) for each in found]
        [('label, logistic, 5 shots', '+.10 [+.02, +.20]')]
        """
        value, low, high = (signed(each) for each in self.gain)
        return f"{value} [{low}, {high}]"


def headlines(rows: Iterable[ResultRow]) -> list[Headline]:
    """The headline of each task that has gains, in the order of the rows."""
    tasks: dict[str, list[ResultRow]] = {}
    for row in rows:
        if row.metric in ("UAR", EER):
            tasks.setdefault(row.task, []).append(row)
    found: list[Headline] = []
    for mine in tasks.values():
        gaining = [row for row in mine if row.gains]
        if not gaining:
            continue
        model = max(gaining, key=lambda row: (row.probe == "logistic", row.contender == _LAYERS, row.labels))
        rivals = [
            row
            for row in mine
            if row.contender in model.gains and (row.probe, row.labels) == (model.probe, model.labels)
        ]
        best = min if model.metric in LOWER_IS_BETTER else max
        found.append(Headline(model, best(rivals, key=lambda row: row.value)))
    return found


def score_words(row: ResultRow) -> str:
    """Contender and score.

    >>> score_words(ResultRow("label", "MFCC", "logistic", 5, "UAR", .4, .3, .5, 9, 5))
    'MFCC: UAR .40'
    """
    return f"{row.contender}: {row.metric} {plain(row.value)}"
