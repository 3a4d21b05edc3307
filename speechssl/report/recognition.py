"""The part of the page about speech recognition: error rates, kinds of errors, the worst utterances."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from speechssl.scoring.results import ResultRow, outcome, plain, signed
from speechssl.scoring.wer import align_words

METRICS = ("WER", "CER")
_WORDS = {"beats": "better", "loses to": "worse", "is level with": "undecided"}
_KINDS = {"beats": "beats", "loses to": "loses", "is level with": "level"}


def is_recognition(row: ResultRow) -> bool:
    """Whether a row is that of a recogniser with one way of decoding."""
    return row.metric in METRICS and bool(row.probe)


def recognition_summary(rows: Sequence[ResultRow]) -> str:
    """How each recogniser fares against the ones after it, by WER."""
    mine = [row for row in rows if row.metric == "WER"]
    names = list(dict.fromkeys(row.contender for row in mine))
    lines: list[str] = []
    for place, ours in enumerate(names):
        for other in names[place + 1 :]:
            told = [
                f'<span class="{_KINDS[outcome(row.gains[other])]}">{_WORDS[outcome(row.gains[other])]}</span> '
                f"with {escape(row.probe)} decoding ({signed(row.gains[other][0])})"
                for row in mine
                if row.contender == ours and other in row.gains
            ]
            if told:
                lines.append(f"<li><b>{escape(ours)}</b> against {escape(other)}: {', '.join(told)}</li>")
    if not lines:
        return ""
    return (
        f"<h2>In short</h2><ul>{''.join(lines)}</ul><p class='caption'>In brackets how much lower the WER is. Better "
        "or worse where the whole 95 % interval of the difference, paired by utterance, lies on one side of zero.</p>"
    )


def recognition_sections(rows: Sequence[ResultRow], worst: Mapping[str, Any]) -> str:
    """Everything else.

    Args:
        rows: those of `is_recognition`; may be none.
        worst: `worst.json`; empty when there is none.
    """
    if not rows:
        return ""
    first = rows[0]
    corpus = Path(first.corpus)
    name = corpus.parent.name if corpus.name in ("corpus", "prepared") else corpus.name
    synthetic = " (synthetic speech)" if first.synthetic else ""
    facts = ", ".join(
        fact for fact in (f"{first.amount} of labels", f"{first.n:,} test utterances", first.split) if fact
    )
    parts = [
        f"<h2>Speech recognition on {escape(name)}{synthetic}</h2><p>{escape(facts)}.</p>",
        rate_table(rows),
        _gain_table([row for row in rows if row.metric == "WER"]),
    ]
    if worst:
        parts += [_kinds_table(worst["kinds"]), _worst(worst)]
    return "\n".join(parts)


def rate_table(rows: Sequence[ResultRow]) -> str:
    """Contenders by metric and way of decoding, with intervals; the lowest of each column is bold."""
    columns = sorted(
        dict.fromkeys((row.metric, row.probe) for row in rows), key=lambda column: METRICS.index(column[0])
    )
    head = "".join(f"<th>{metric}<br>{escape(probe)}</th>" for metric, probe in columns)
    body: list[str] = []
    for contender in dict.fromkeys(row.contender for row in rows):
        cells: list[str] = []
        for column in columns:
            mine = [row for row in rows if (row.metric, row.probe) == column]
            row = next((row for row in mine if row.contender == contender), None)
            if row is None:
                cells.append("<td></td>")
                continue
            best = row.value == min(each.value for each in mine)
            value = f"<b>{plain(row.value)}</b>" if best else plain(row.value)
            cells.append(f"<td>{value} <small>[{plain(row.low)}, {plain(row.high)}]</small></td>")
        body.append(f"<tr><td>{escape(contender)}</td>{''.join(cells)}</tr>")
    return _table(head, body, "Errors over reference words (characters), 95 % interval by utterance. Bold: the lowest.")


def _gain_table(rows: Sequence[ResultRow]) -> str:
    probes = list(dict.fromkeys(row.probe for row in rows))
    body: list[str] = []
    for ours, other in dict.fromkeys((row.contender, name) for row in rows for name in row.gains):
        cells: list[str] = []
        for probe in probes:
            row = next((r for r in rows if (r.contender, r.probe) == (ours, probe) and other in r.gains), None)
            if row is None:
                cells.append("<td></td>")
                continue
            value, low, high = row.gains[other]
            kind = _KINDS[outcome(row.gains[other])]
            cells.append(
                f'<td><span class="{kind}">{signed(value)}</span> <small>[{signed(low)}, {signed(high)}]</small></td>'
            )
        body.append(f"<tr><td>{escape(ours)} instead of {escape(other)}</td>{''.join(cells)}</tr>")
    if not body:
        return ""
    head = "".join(f"<th>{escape(probe)}</th>" for probe in probes)
    caption = "Above zero: fewer errors. Same utterances on both sides, 95 % interval; green better, orange worse."
    return "<h3>WER saved</h3>" + _table(head, body, caption)


def _kinds_table(kinds: Sequence[Mapping[str, Any]]) -> str:
    names = ("substitutions", "deletions", "insertions", "words")
    body = [
        f"<tr><td>{escape(str(kind['contender']))}, {escape(str(kind['probe']))}</td>"
        + "".join(f"<td>{int(kind[name]):,}</td>" for name in names)
        + "</tr>"
        for kind in kinds
    ]
    head = "".join(f"<th>{name}</th>" for name in names)
    caption = "Of all test utterances; words: those of the references."
    return "<h3>Kinds of errors</h3>" + _table(head, body, caption)


def _worst(worst: Mapping[str, Any]) -> str:
    items = "".join(_utterance(each) for each in worst["utterances"])
    caption = (
        "Said above, written below, what is wrong underlined, – for nothing. The audio stays where the corpus lies."
    )
    who = f"{escape(str(worst['contender']))}, {escape(str(worst['probe']))}"
    return f"<h3>The worst utterances: {who}</h3><ul>{items}</ul><p class='caption'>{caption}</p>"


def _utterance(told: Mapping[str, Any]) -> str:
    path, offset = Path(str(told["audio"])), float(told.get("offset", 0.0))
    uri = "file://" + quote(str(path.absolute()))
    uri += f"#t={offset:g},{offset + float(told['duration']):g}" if offset else ""  # a stretch of a long file
    edits = align_words(str(told["said"]), str(told["written"]))
    rows: list[str] = []
    for words in ([edit.reference for edit in edits], [edit.hypothesis for edit in edits]):
        cells = (
            f"<td>{'<u>' if edit.is_error else ''}{escape(word or '–')}{'</u>' if edit.is_error else ''}</td>"
            for edit, word in zip(edits, words, strict=True)
        )
        rows.append(f"<tr>{''.join(cells)}</tr>")
    link = escape(uri, quote=True)
    return (
        f'<li><a href="{link}">{escape(path.name)}</a>: {int(told["errors"])} errors '
        f'<audio controls preload="none" src="{link}"></audio>'
        f'<div class="scroll"><table><tbody>{"".join(rows)}</tbody></table></div></li>'
    )


def _table(head: str, body: Sequence[str], caption: str) -> str:
    return (
        f'<div class="scroll"><table><thead><tr><th></th>{head}</tr></thead><tbody>{"".join(body)}'
        f"</tbody></table></div><p class='caption'>{caption}</p>"
    )
