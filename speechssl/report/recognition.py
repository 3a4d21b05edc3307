"""Sections about speech recognition: error rates, kinds of errors, the worst utterances."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from speechssl.metrics.results import ResultRow, outcome, signed
from speechssl.metrics.wer import align_words
from speechssl.report.markup import Child, Element, tag
from speechssl.report.records import ErrorKinds, Worst, WorstUtterance
from speechssl.report.tables import captioned, gain_cell, in_short, score_cell, table

METRICS = ("WER", "CER")
_WORDS = {"beats": "better", "loses to": "worse", "is level with": "undecided"}
_KINDS = {"beats": "beats", "loses to": "loses", "is level with": "level"}


def is_recognition(row: ResultRow) -> bool:
    """Whether a row is that of a recogniser with one decoding."""
    return row.metric in METRICS and bool(row.probe)


def recognition_summary(rows: Sequence[ResultRow]) -> list[Element]:
    """Outcome of each recogniser against the ones after it, by WER."""
    mine = [row for row in rows if row.metric == "WER"]
    names = list(dict.fromkeys(row.contender for row in mine))
    lines: list[Element] = []
    for place, contender in enumerate(names):
        for other in names[place + 1 :]:
            words: list[Child] = []
            for row in mine:
                if row.contender == contender and other in row.gains:
                    found = outcome(row.gains[other])
                    words += [", "] if words else []
                    words.append(tag("span", _WORDS[found], class_=_KINDS[found]))
                    words.append(f" with {row.probe} decoding ({signed(row.gains[other][0])})")
            if words:
                lines.append(tag("li", tag("b", contender), f" against {other}: ", words))
    return in_short(
        lines,
        "In brackets how much lower the WER is. Better or worse where the 95 % interval of the difference, paired by "
        "utterance, excludes zero.",
    )


def recognition_sections(rows: Sequence[ResultRow], worst: Worst | None) -> list[Element]:
    """All other sections.

    Args:
        rows: those of `is_recognition`; may be none.
        worst: `worst.json`; None when there is none.
    """
    if not rows:
        return []
    first = rows[0]
    corpus = Path(first.corpus)
    name = corpus.parent.name if corpus.name in ("corpus", "prepared") else corpus.name
    synthetic = " (synthetic speech)" if first.synthetic else ""
    facts = [fact for fact in (f"{first.amount} of labels", f"{first.n:,} test utterances", first.split) if fact]
    parts = [
        tag("h2", f"Speech recognition on {name}{synthetic}"),
        tag("p", f"{', '.join(facts)}."),
        *rate_table(rows),
        *_gain_table([row for row in rows if row.metric == "WER"]),
    ]
    return parts if worst is None else [*parts, *_kinds_table(worst.kinds), *_worst(worst)]


def rate_table(rows: Sequence[ResultRow]) -> list[Element]:
    """Contenders by metric and decoding, with intervals; the lowest of each column is bold."""
    columns = sorted(
        dict.fromkeys((row.metric, row.probe) for row in rows), key=lambda column: METRICS.index(column[0])
    )
    lowest = {column: min(row.value for row in rows if (row.metric, row.probe) == column) for column in columns}
    body: list[Element] = []
    for contender in dict.fromkeys(row.contender for row in rows):
        mine = {(row.metric, row.probe): row for row in reversed(rows) if row.contender == contender}
        found = [mine.get(column) for column in columns]
        cells = [score_cell(row, best=row is not None and row.value == lowest[row.metric, row.probe]) for row in found]
        body.append(tag("tr", tag("td", contender), cells))
    return table(
        ["", *([metric, tag("br"), probe] for metric, probe in columns)],
        body,
        "Errors over reference words (characters), 95 % interval by utterance. Bold: the lowest.",
    )


def _gain_table(rows: Sequence[ResultRow]) -> list[Element]:
    probes = list(dict.fromkeys(row.probe for row in rows))
    body: list[Element] = []
    for contender, other in dict.fromkeys((row.contender, name) for row in rows for name in row.gains):
        found = (
            next((r for r in rows if (r.contender, r.probe) == (contender, probe) and other in r.gains), None)
            for probe in probes
        )
        cells = [gain_cell(None if row is None else row.gains[other], apart=" ") for row in found]
        body.append(tag("tr", tag("td", f"{contender} instead of {other}"), cells))
    if not body:
        return []
    caption = "Above zero: fewer errors. Same utterances on both sides, 95 % interval; green better, orange worse."
    return [tag("h3", "WER saved"), *table(["", *probes], body, caption)]


def _kinds_table(kinds: Sequence[ErrorKinds]) -> list[Element]:
    body = [
        tag(
            "tr",
            tag("td", f"{kind.contender}, {kind.probe}"),
            [tag("td", f"{count:,}") for count in (kind.substitutions, kind.deletions, kind.insertions, kind.words)],
        )
        for kind in kinds
    ]
    head = ["", "substitutions", "deletions", "insertions", "words"]
    caption = "Of all test utterances; words: those of the references."
    return [tag("h3", "Kinds of errors"), *table(head, body, caption)]


def _worst(worst: Worst) -> list[Element]:
    caption = "Reference above, transcript below; errors are underlined, – is a missing word."
    return [
        tag("h3", f"The worst utterances: {worst.contender}, {worst.probe}"),
        tag("ul", [_utterance(each) for each in worst.utterances]),
        captioned(caption),
    ]


def _utterance(utterance: WorstUtterance) -> Element:
    path = Path(utterance.audio)
    uri = "file://" + quote(str(path.absolute()))
    if utterance.offset:  # a segment of a long file
        uri += f"#t={utterance.offset:g},{utterance.offset + utterance.duration:g}"
    edits = align_words(utterance.said, utterance.written)
    rows: list[Element] = []
    for words in ([edit.reference for edit in edits], [edit.hypothesis for edit in edits]):
        cells = [
            tag("td", tag("u", word or "–") if edit.is_error else word or "–")
            for edit, word in zip(edits, words, strict=True)
        ]
        rows.append(tag("tr", cells))
    return tag(
        "li",
        tag("a", path.name, href=uri),
        f": {utterance.errors} errors ",
        tag("audio", controls=None, preload="none", src=uri),
        tag("div", tag("table", tag("tbody", rows)), class_="scroll"),
    )
