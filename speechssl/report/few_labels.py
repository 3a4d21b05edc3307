"""The part of the page about an experiment with few labels: curves, tables, paired gains, a confusion matrix."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from speechssl.report.curves import efficiency_curves, levels_of
from speechssl.report.plots import BLUE
from speechssl.scoring.results import CHANCE, LOWER_IS_BETTER, ResultRow, amounts, outcome, plain, signed

_WORDS = {"beats": "better", "loses to": "worse", "is level with": "undecided"}


def few_label_summary(rows: Sequence[ResultRow]) -> str:
    """How each contender with gains fares against each other one, a line a pair."""
    lines: list[str] = []
    for task, metric in _parts(rows):
        mine = [row for row in rows if (row.task, row.metric) == (task, metric)]
        for ours, other in dict.fromkeys((row.contender, name) for row in mine for name in row.gains):
            told = _told([row for row in mine if row.contender == ours and other in row.gains], other)
            lines.append(f"<li><b>{escape(ours)}</b> against {escape(other)}: {told}</li>")
    if not lines:
        return ""
    return (
        f"<h2>In short</h2><ul>{''.join(lines)}</ul><p class='caption'>Better or worse where the whole 95 % interval "
        "of the difference, paired by what was resampled, lies on one side of zero.</p>"
    )


def few_label_sections(rows: Sequence[ResultRow], confusion: Mapping[str, Any]) -> str:
    """Everything else, a section a task.

    Args:
        rows: of whole experiments, not of probes.
        confusion: `confusion.json`; empty when there is none.
    """
    parts: list[str] = []
    for task, metric in _parts(rows):
        mine = [row for row in rows if row.task == task]
        main = [row for row in mine if row.metric == metric]
        parts.append(_heading(main))
        parts.append(f"<figure>{efficiency_curves(main)}<figcaption>{_caption(main)}</figcaption></figure>")
        parts.append(amount_table(main))
        parts.append(_gain_tables(main))
        for other in dict.fromkeys(row.metric for row in mine if row.metric != metric):
            table = amount_table([row for row in mine if row.metric == other])
            parts.append(f"<details><summary>{escape(other)}</summary>{table}</details>")
        parts.append(_confusion(main, confusion))
    return "\n".join(parts)


def amount_table(rows: Sequence[ResultRow]) -> str:
    """Contenders by amount of labels, rows of one task and metric; the best of each column is bold."""
    levels = levels_of(rows)
    head = "".join(f"<th>{escape(_amount(rows, level))}</th>" for level in levels)
    best = {level: _best(rows, level) for level in levels}
    body: list[str] = []
    for contender in dict.fromkeys(row.contender for row in rows):
        cells: list[str] = []
        for level in levels:
            row = next((row for row in rows if (row.contender, row.labels) == (contender, level)), None)
            if row is None:
                cells.append("<td></td>")
                continue
            value = f"<b>{plain(row.value)}</b>" if best[level] is row else plain(row.value)
            interval = f" <small>[{plain(row.low)}, {plain(row.high)}]</small>" if row.low < row.high else ""
            cells.append(f"<td>{value}{interval}</td>")
        body.append(f"<tr><td>{escape(contender)}</td>{''.join(cells)}</tr>")
    return (
        f'<div class="scroll"><table><thead><tr><th>{escape(rows[0].metric)}</th>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div><p class='caption'>95 % interval in brackets. Bold: the best "
        "value of a column; whether it is clearly the best is told by the paired differences.</p>"
    )


def _parts(rows: Sequence[ResultRow]) -> list[tuple[str, str]]:
    """Each task with its first metric, which is the one that counts."""
    first: dict[str, str] = {}
    for row in rows:
        first.setdefault(row.task, row.metric)
    return list(first.items())


def _told(rows: Sequence[ResultRow], other: str) -> str:
    """For example `better at 5, 10 shots; undecided at all`."""
    found: dict[str, list[ResultRow]] = {}
    for row in rows:
        found.setdefault(_verdict(row, other), []).append(row)
    words = {"better": "beats", "worse": "loses", "undecided": "level"}
    return "; ".join(f'<span class="{words[k]}">{k}</span> at {escape(amounts(v))}' for k, v in found.items())


def _verdict(row: ResultRow, other: str) -> str:
    return _WORDS[outcome(row.gains[other])]


def _heading(rows: Sequence[ResultRow]) -> str:
    first = rows[0]
    corpus = Path(first.corpus).name
    corpus = Path(first.corpus).parent.name if corpus in ("corpus", "prepared") else corpus
    synthetic = " (synthetic speech)" if first.synthetic else ""
    facts = [f"{first.classes} classes"] if first.classes else []
    facts += [words for words in (first.split, f"{first.seeds} draws" if first.seeds > 1 else "") if words]
    on = f" on {corpus}" if corpus else ""
    return f"<h2>{escape(first.task)}{escape(on)}{synthetic}</h2><p>{escape(', '.join(facts))}.</p>"


def _caption(rows: Sequence[ResultRow]) -> str:
    test = max(row.n for row in rows)
    last = " “all” is every utterance of the training side." if any(row.labels == 0 for row in rows) else ""
    return f"Every contender has the same labels and the same {test:,} test utterances. Bands: 95 % interval.{last}"


def _gain_tables(rows: Sequence[ResultRow]) -> str:
    levels = levels_of(rows)
    pairs = dict.fromkeys((row.contender, name) for row in rows for name in row.gains)
    if not pairs:
        return ""
    head = "".join(f"<th>{escape(_amount(rows, level))}</th>" for level in levels)
    body: list[str] = []
    for ours, other in pairs:
        cells: list[str] = []
        for level in levels:
            row = next((r for r in rows if r.contender == ours and r.labels == level and other in r.gains), None)
            if row is None:
                cells.append("<td></td>")
                continue
            value, low, high = row.gains[other]
            kind = {"better": "beats", "worse": "loses"}.get(_verdict(row, other), "level")
            interval = f"[{signed(low)}, {signed(high)}]"
            cells.append(f'<td><span class="{kind}">{signed(value)}</span><br><small>{interval}</small></td>')
        body.append(f"<tr><td>{escape(ours)} − {escape(other)}</td>{''.join(cells)}</tr>")
    kind = "reduction of" if rows[0].metric in LOWER_IS_BETTER else "difference in"
    return (
        f'<h3>Paired differences</h3><div class="scroll"><table><thead><tr><th>{kind} {escape(rows[0].metric)}'
        f"</th>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div><p class='caption'>Same test utterances "
        "on both sides, 95 % interval: green where the first is better, orange where it is worse, grey undecided.</p>"
    )


def _confusion(rows: Sequence[ResultRow], confusion: Mapping[str, Any]) -> str:
    """The matrix of the best contender with the most labels."""
    level = levels_of(rows)[-1]
    best = _best(rows, level)
    cells: Sequence[Mapping[str, Any]] = confusion.get("cells", [])
    found = next((c for c in cells if best and (c["contender"], c["labels"]) == (best.contender, level)), None)
    if best is None or found is None:
        return ""
    classes: Sequence[str] = confusion["classes"]
    head = "".join(f"<th>{escape(name)}</th>" for name in classes)
    body: list[str] = []
    for name, counts in zip(classes, found["matrix"], strict=True):
        total = max(1, sum(counts))
        row = "".join(_shade(count, count / total) for count in counts)
        body.append(f"<tr><td>{escape(name)}</td>{row}</tr>")
    return (
        f"<h3>What is taken for what: {escape(best.contender)}, {escape(best.amount)}</h3>"
        f'<div class="scroll"><table><thead><tr><th>is / is taken for</th>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div><p class='caption'>Test utterances of all draws, with their "
        "share of the row. The best contender at this amount of labels is shown.</p>"
    )


def _shade(count: int, share: float) -> str:
    red, green, blue = (int(BLUE[i : i + 2], 16) for i in (1, 3, 5))
    ink = "#fff" if share > 0.55 else "inherit"
    style = f"background:rgba({red},{green},{blue},{share:.2f});color:{ink}"
    return f'<td style="{style}">{count:,} <small style="color:{ink}">{plain(share)}</small></td>'


def _best(rows: Sequence[ResultRow], level: int) -> ResultRow | None:
    mine = [row for row in rows if row.labels == level and row.contender != CHANCE]
    if not mine:
        return None
    return (min if mine[0].metric in LOWER_IS_BETTER else max)(mine, key=lambda row: row.value)


def _amount(rows: Sequence[ResultRow], level: int) -> str:
    return next(row.amount for row in rows if row.labels == level)
