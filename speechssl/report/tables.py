"""Result tables of the page, and what they come to in a line."""

from collections.abc import Sequence
from html import escape

from speechssl.scoring.results import ResultRow, clear_winner, columns_of, outcome, plain, signed, tallies

_KINDS = {"beats": "beats", "partly beats": "beats", "loses to": "loses", "partly loses to": "loses"}


def summary(rows: Sequence[ResultRow]) -> str:
    """Does the model beat the random encoder and MFCC? One line a task and baseline, by paired intervals."""
    lines = [
        f"<li><b>{escape(tally.task)}</b>: the model "
        f'<span class="{_KINDS.get(tally.verdict, "level")}">{tally.verdict} {escape(tally.baseline)}</span>: '
        f"{tally.count}</li>"
        for tally in tallies(rows)
    ]
    if not lines:
        return ""
    return (
        f"<h2>In short</h2><ul>{''.join(lines)}</ul>"
        '<p class="caption">A comparison is one layer, probe and number of shots. It counts as won or lost when the '
        "whole 95 % interval of the difference in UAR, paired by speaker and draw, lies on one side of zero. The "
        "random encoder is the same network, never trained: what training added is the difference from it.</p>"
    )


def score_table(rows: Sequence[ResultRow], task: str, *, metric: str) -> str:
    """Every contender's score at every probe and number of shots, with intervals."""
    columns = columns_of(rows, task=task, metric=metric)
    winners = {key: clear_winner(column) for key, column in columns.items()}
    head = "".join(f"<th>{escape(probe)}<br>{shots} shots</th>" for probe, shots in columns)
    body: list[str] = []
    for contender in dict.fromkeys(row.contender for row in rows if row.task == task and row.metric == metric):
        cells: list[str] = []
        family = contender
        for key, column in columns.items():
            row = next((row for row in column if row.contender == contender), None)
            if row is None:
                cells.append("<td></td>")
                continue
            family = row.family
            value = plain(row.value)
            value = f"<b>{value}</b>" if winners[key] == contender else value
            interval = f" <small>[{plain(row.low)}, {plain(row.high)}]</small>" if row.low < row.high else ""
            cells.append(f"<td>{value}{interval}</td>")
        kind = ' class="model"' if family == "model" else ""
        body.append(f"<tr{kind}><td>{escape(contender)}</td>{''.join(cells)}</tr>")
    return (
        f'<div class="scroll"><table><thead><tr><th>{metric}</th>{head}</tr></thead><tbody>{"".join(body)}'
        '</tbody></table></div><p class="caption">Mean over draws with 95 % interval by speaker. Bold: best, and '
        "its interval overlaps that of no other kind of features. Layers were not chosen by their scores.</p>"
    )


def gain_table(rows: Sequence[ResultRow], task: str) -> str:
    """What the model gains over each baseline, with paired intervals."""
    columns = columns_of(rows, task=task)
    mine = [row for row in rows if row.task == task and row.metric == "UAR" and row.gains]
    pairs = dict.fromkeys((row.contender, name) for row in mine for name in row.gains)
    if not pairs:
        return missing("The baselines were not run, so nothing is said about what training added.")
    head = "".join(f"<th>{escape(probe)}<br>{shots} shots</th>" for probe, shots in columns)
    body: list[str] = []
    for contender, baseline in pairs:
        cells: list[str] = []
        for column in columns.values():
            row = next((row for row in column if row.contender == contender and baseline in row.gains), None)
            if row is None:
                cells.append("<td></td>")
                continue
            value, low, high = row.gains[baseline]
            kind = _KINDS.get(outcome(row.gains[baseline]), "level")
            interval = f"[{signed(low)}, {signed(high)}]"
            cells.append(f'<td><span class="{kind}">{signed(value)}</span><br><small>{interval}</small></td>')
        body.append(f"<tr><td>{escape(contender)} − {escape(baseline.split(' (')[0])}</td>{''.join(cells)}</tr>")
    return (
        f'<div class="scroll"><table><thead><tr><th>difference in UAR</th>{head}</tr></thead><tbody>{"".join(body)}'
        '</tbody></table></div><p class="caption">Paired by speaker and draw, 95 % interval: green above zero, orange '
        "below, grey undecided. The random encoder is taken at the same layer.</p>"
    )


def missing(sentence: str) -> str:
    """A sentence in the place of what is not there."""
    return f'<p class="missing">{escape(sentence)}</p>'
