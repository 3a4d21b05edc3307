"""Section that begins the page of `judge`: one comparison per task, and the tasks that were left out."""

from collections.abc import Sequence

from speechssl.metrics.headlines import headlines, score_words
from speechssl.metrics.results import ResultRow
from speechssl.report.markup import Element, tag
from speechssl.report.records import Judged
from speechssl.report.tables import captioned, gain_cell, table


def judged_section(rows: Sequence[ResultRow], judged: Judged) -> list[Element]:
    """The table of headlines, the overlap with the audio of pretraining, and what was left out.

    Args:
        rows: all rows.
        judged: `judge.json`.
    """
    body = [
        tag(
            "tr",
            tag("td", each.setting),
            tag("td", score_words(each.model)),
            tag("td", score_words(each.baseline)),
            gain_cell(each.gain),
        )
        for each in headlines(rows)
    ]
    caption = (
        "The last column is how much better the model is, with the paired 95 % interval: green above zero, orange "
        "below, grey undecided. The layer was not chosen by its score; the baseline is the one with the best score."
    )
    overlaps = dict.fromkeys((row.task, row.pretraining_audio) for row in rows if row.pretraining_audio)
    seen = [tag("li", tag("b", task), f": in the audio of pretraining: {words}") for task, words in overlaps]
    left = [tag("li", tag("b", task), f" was left out: {reason}") for task, reason in judged.left_out.items()]
    return [
        tag("h2", "Verdict"),
        *table(["task", "model", "best baseline", "gain"], body, caption),
        tag("ul", [*seen, *left]),
        captioned("Chance: one over the number of classes for UAR, one half for EER."),
    ]
