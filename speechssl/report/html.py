"""The report: one self-contained, printable HTML file, with a note for each part that is missing."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from speechssl import __version__
from speechssl.files import replacing
from speechssl.metrics.results import plain
from speechssl.report import plots
from speechssl.report.few_labels import few_label_sections, few_label_summary
from speechssl.report.judged import judged_section
from speechssl.report.learning import learning_figures
from speechssl.report.markup import Child, Element, render, tag
from speechssl.report.phones import phone_sections
from speechssl.report.recognition import is_recognition, recognition_sections, recognition_summary
from speechssl.report.run import Run, read_run, series
from speechssl.report.tables import captioned, gain_table, missing, score_table, summary
from speechssl.report.verification import verification_sections

_STYLE = """
:root { --ink: #222; --grey: #666; --line: #ddd; --blue: #0072B2; --wash: #f4f7fa; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.5rem 4rem; background: #fff; color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; padding-bottom: .25rem; border-bottom: 2px solid var(--ink); }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
p { margin: .5rem 0; max-width: 46rem; }
.lead { color: var(--grey); }
.note { background: #fff6e0; border-left: 4px solid #E69F00; padding: .5rem .8rem; }
.missing { color: var(--grey); font-style: italic; }
ul { margin: .4rem 0; padding-left: 1.2rem; max-width: 50rem; }
.beats { color: #00744f; font-weight: 600; } .loses { color: #b34700; font-weight: 600; }
.level { color: var(--grey); font-weight: 600; }
figure { margin: .8rem 0 1.2rem; } svg { width: 100%; height: auto; display: block; }
figcaption, .caption { color: var(--grey); font-size: .85rem; max-width: 50rem; }
.numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .7rem; margin: 1.2rem 0; }
.numbers div { background: var(--wash); border-radius: .4rem; padding: .6rem .8rem; }
.numbers b { display: block; font-size: 1.25rem; font-variant-numeric: tabular-nums; }
.numbers span { color: var(--grey); font-size: .82rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
h1, h2, h3, p, li, td:first-child { overflow-wrap: anywhere; } td:first-child { white-space: normal; min-width: 9rem; }
thead th { border-bottom: 1.5px solid var(--ink); vertical-align: bottom; font-weight: 600; }
td small { color: var(--grey); } tr.model td:first-child { color: var(--blue); font-weight: 600; }
table.facts td { white-space: normal; text-align: left; vertical-align: top; }
table.facts td:first-child { color: var(--grey); white-space: nowrap; }
code { font: .85em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
details { margin: .8rem 0; } summary { cursor: pointer; color: var(--grey); }
@media print { body { max-width: none; padding: 0; font-size: 11pt; } h2 { break-after: avoid; }
  figure, table, .numbers { break-inside: avoid; } }
"""


def write_report(run: Path, out: Path) -> None:
    """Write the page about a run.

    Reads `config.json`, `recipe.toml`, `log.jsonl`, `metrics.json`, `results.json`, `confusion.json`, `worst.json`,
    `judge.json` and `map.npz` from the run's folder. A missing file is replaced by a note; a few-label experiment,
    which has neither log nor probes nor map, and a folder of `judge` have no such notes. The file is written under a
    temporary name and renamed.

    Args:
        run: the folder.
        out: the HTML file; its folder is made when missing.

    Raises:
        UserError: no run in the folder, or one of its files cannot be read.
        OSError: the page cannot be written; names the page.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "log.jsonl").write_text('{"step": 1, "loss": 4.6}')
    ...     write_report(Path(folder), Path(folder) / "report.html")
    ...     "No probe has been run yet" in (Path(folder) / "report.html").read_text()
    True
    """
    found = read_run(run)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as file:  # an unwritable path fails before the figures are drawn
        file.write(b"<!doctype html>\n" + render(_page(found)).encode() + b"\n")


def _page(run: Run) -> Element:
    curves = [row for row in run.experiments if not is_recognition(row)]
    rates = [row for row in run.experiments if is_recognition(row)]
    few = [*few_label_sections(curves, run.confusion), *recognition_sections(rates, run.worst)]
    parts: list[Child] = [*_head(run), *few, *_what_was_run(run)]
    if run.judged is not None:
        parts += [*_probes(run), *_map(run)] if run.probes else []
    elif run.training or run.probes or not (run.experiments or run.phones):
        parts += [*_learning(run), *_probes(run), *_map(run)]
    parts += [*phone_sections(run.phones), *verification_sections(run.verification)]
    return document(run.name, parts)


def document(title: str, parts: Sequence[Child]) -> Element:
    """A page in the style of the reports.

    Args:
        title: of the window.
        parts: the content.
    """
    foot = captioned(f"Written by speechssl {__version__} with matplotlib {version('matplotlib')}.")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"speechssl: {title}"),
        tag("style", _STYLE),
    )
    return tag("html", head, tag("body", [*parts, foot]), lang="en")


def _head(run: Run) -> list[Element]:
    preset = _shape(run)
    parts = [tag("h1", f"Run {run.name}")]
    parts += [tag("p", preset, class_="lead")] if preset else []
    if run.synthetic:
        words = " The speech of this run is synthesised. Its results do not apply to real speech."
        parts.append(tag("p", tag("b", "Synthetic speech."), words, class_="note"))
    curves = [row for row in run.experiments if not is_recognition(row)]
    rates = [row for row in run.experiments if is_recognition(row)]
    overview = [] if run.judged is None else judged_section(run.results, run.judged)
    verdicts = [*overview, *few_label_summary(curves), *recognition_summary(rates), *summary(run.probes)]
    return [*parts, *_numbers(run), *verdicts]


def _shape(run: Run) -> str:
    transformer = run.config.encoder and run.config.encoder.transformer
    if not transformer:
        return ""
    objective = run.config.objective.name if run.config.objective else ""
    blocks = f"{transformer.layers} Transformer blocks of dimension {transformer.dim}"
    return f"{objective} pretraining, {blocks}" if objective else f"An encoder with {blocks}"


def _numbers(run: Run) -> list[Element]:
    """The main figures."""
    tiles: list[tuple[str, str]] = []
    if run.training:
        last = run.training[-1]
        tiles.append((f"{last.step:,}", "updates"))
        tiles.append((_duration(last.seconds_seen), "audio seen"))
        tiles.append((_duration(run.wall_seconds), "training time, about"))
    for curve in run.curves:
        _, values = series(run.validation, curve.metric)
        if curve.headline and values:
            _, chance = series(run.validation, curve.chance) if curve.chance else ([], [])
            words = f" (chance {chance[-1]:.2f})" if chance else ""
            shown = plain(values[-1]) if curve.limits else f"{values[-1]:.2f}"
            tiles.append((shown, f"{curve.label or curve.title}, validation{words}"))
    cells = [tag("div", tag("b", value), tag("span", words)) for value, words in tiles]
    return [tag("div", cells, class_="numbers")] if cells else []


def _what_was_run(run: Run) -> list[Element]:
    facts: list[tuple[str, Child]] = []
    known = run.provenance
    if known.corpora:
        hours = "" if known.hours is None else f", {known.hours:g} h to train on"
        synthetic = " (synthetic)" if known.synthetic else ""
        facts.append(("trained on", ", ".join(Path(each).name for each in known.corpora) + hours + synthetic))
    facts += _settings(run)
    if known.command:
        facts.append(("training", tag("code", known.command)))
    commands = dict.fromkeys(row.command for row in run.results if row.command)
    facts += [("evaluation", tag("code", command)) for command in commands]
    versions = f"speechssl {known.speechssl or __version__}"
    facts.append(("versions", f"{versions}, torch {known.torch}" if known.torch else versions))
    rows = [tag("tr", tag("td", name), tag("td", value)) for name, value in facts]
    return [tag("h2", "What was run"), tag("table", rows, class_="facts")]


def _settings(run: Run) -> list[tuple[str, Child]]:
    """The main settings of a run, in words; the whole recipe is in the run's folder."""
    facts: list[tuple[str, Child]] = []
    conv = run.config.encoder and run.config.encoder.conv
    if conv:
        words = f"{len(conv.layers)} convolutions, first {conv.front}, initialised {conv.init}"
        facts.append(("front end", f"{words}, {conv.norm} norm"))
    if run.settings:
        facts.append(("objective", run.settings))
    crops, optim = run.recipe.crops, run.recipe.optim
    if crops.batch_seconds is not None and crops.seconds is not None:
        facts.append(("batch", f"{crops.batch_seconds:g} s of audio in crops of {crops.seconds:g} s"))
    rate = optim.max_lr if optim.max_lr is not None else optim.lr
    if rate is not None:
        facts.append(("learning rate", f"at most {rate:g}"))
    if run.recipe.seed is not None:
        facts.append(("seed", str(run.recipe.seed)))
    return facts


def _learning(run: Run) -> list[Element]:
    title = tag("h2", "Learning")
    if not run.training:
        return [title, missing("This folder has no training log, so there are no learning curves.")]
    return [title, *(_figure(picture, caption) for picture, caption in learning_figures(run))]


def _figure(picture: Element, caption: str) -> Element:
    return tag("figure", picture, tag("figcaption", caption))


def _probes(run: Run) -> Sequence[Element]:
    title = tag("h2", "Few labels")
    if not run.probes:
        return [title, missing("No probe has been run yet: `speechssl evaluate` writes results.json into this folder.")]
    parts = [title, tag("p", "A probe is trained on a few labelled utterances per class, on frozen features.")]
    for task in dict.fromkeys(row.task for row in run.probes):
        first = next(row for row in run.probes if row.task == task)
        corpus = Path(first.corpus).name
        on = f" on {corpus}" if corpus else ""
        synthetic = " (synthetic speech)" if first.synthetic else ""
        setting = f"{first.classes} classes, {first.split} between training and test, {first.seeds} draws"
        parts.append(tag("h3", f"{task}{on}{synthetic}: {setting}"))
        if any(row.task == task and row.probe != "none" and row.metric == "UAR" for row in run.probes):
            parts.append(tag("figure", plots.shots_curves(run.probes, task)))
        parts += [*score_table(run.probes, task, metric="UAR"), *gain_table(run.probes, task)]
        accuracy = score_table(run.probes, task, metric="WA")
        parts.append(tag("details", tag("summary", "Plain accuracy (WA)"), accuracy))
    return parts


def _map(run: Run) -> list[Element]:
    title = tag("h2", "Map of the embeddings")
    if run.map is None:
        return [title, missing("No map has been made yet: `speechssl evaluate` writes map.npz into this folder.")]
    caption = (
        f"{len(run.map.points):,} test utterances of the first draw, last layer, in two dimensions by "
        f"{run.map.method}. Neighbours on the map are similar; distances between distant groups have no meaning."
    )
    return [title, _figure(plots.embedding_map(run.map), caption)]


def _duration(seconds: float) -> str:
    """Seconds in a readable unit.

    >>> _duration(42.0), _duration(185.0), _duration(5400.0), _duration(360000.0)
    ('42 s', '3.1 min', '1.5 h', '100 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 100 else f"{hours:,.0f} h"
