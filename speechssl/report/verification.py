"""Section about speaker verification: equal error rates and paired differences."""

from collections.abc import Sequence
from pathlib import Path

from speechssl.metrics.results import ResultRow
from speechssl.report.markup import Element, tag
from speechssl.report.tables import gain_cell, score_cell, table


def verification_sections(rows: Sequence[ResultRow]) -> list[Element]:
    """The table of one corpus; nothing without rows.

    Args:
        rows: those of `ResultRow.is_verification`.
    """
    if not rows:
        return []
    baselines = list(dict.fromkeys(name for row in rows for name in row.gains))
    lowest = min(row.value for row in rows)
    body: list[Element] = []
    for row in rows:
        cells = [gain_cell(row.gains.get(name)) for name in baselines]
        kind = {"class_": "model"} if row.family == "model" else {}
        body.append(tag("tr", tag("td", row.contender), score_cell(row, best=row.value == lowest), cells, **kind))
    first = rows[0]
    corpus = Path(first.corpus)
    name = corpus.parent.name if corpus.name in ("corpus", "prepared") else corpus.name
    synthetic = " (synthetic speech)" if first.synthetic else ""
    return [
        tag("h2", f"Speaker verification{f' on {name}' if name else ''}{synthetic}"),
        *table(
            [first.metric, "", *(f"better than {name} by" for name in baselines)],
            body,
            f"Equal error rate of {first.n:,} pairs of recordings by {first.classes} speakers, half of them of one "
            "speaker, by the cosine of the means over frames. Nothing is trained. Lower is better, chance is .50, the "
            "lowest is bold. 95 % intervals resample speakers; differences are paired: green where the model is "
            "better, orange where it is worse, grey undecided. The random encoder is taken at the same layer.",
        ),
    ]
