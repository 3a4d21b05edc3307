"""The report: one HTML file that needs nothing else, light, printable, and honest about what is missing."""

from html import escape
from importlib.metadata import version
from pathlib import Path

from speechssl import __version__
from speechssl.report import plots
from speechssl.report.few_labels import few_label_sections, few_label_summary
from speechssl.report.recognition import is_recognition, recognition_sections, recognition_summary
from speechssl.report.run import Run, read_run
from speechssl.report.tables import gain_table, missing, score_table, summary
from speechssl.scoring.results import plain

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

    Reads `config.json`, `recipe.toml`, `log.jsonl`, `results.json`, `confusion.json`, `worst.json` and `map.npz` from
    the run's folder. What is not there is left out with a sentence that says so; an experiment with few labels, which
    has neither log nor probes nor map, is spared the sentences. The file is written under a temporary name and renamed.

    Args:
        run: the folder.
        out: the HTML file; its folder is made when missing.

    Raises:
        UserError: no run in the folder, or a file of it that cannot be read.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "log.jsonl").write_text('{"step": 1, "loss": 4.6, "contrastive_loss": 4.6}')
    ...     write_report(Path(folder), Path(folder) / "report.html")
    ...     "No probe has been run yet" in (Path(folder) / "report.html").read_text()
    True
    """
    found = read_run(run)
    curves = [row for row in found.experiments if not is_recognition(row)]
    rates = [row for row in found.experiments if is_recognition(row)]
    few = few_label_sections(curves, found.confusion) + recognition_sections(rates, found.worst)
    parts = [_head(found), few, _what_was_run(found)]
    if found.training or found.probes or not found.experiments:
        parts += [_learning(found), _probes(found), _map(found)]
    parts.append(_foot())
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>speechssl: {escape(found.name)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(out)


def _head(run: Run) -> str:
    preset = _shape(run)
    lead = f'<p class="lead">{escape(preset)}</p>' if preset else ""
    note = (
        '<p class="note"><b>Synthetic speech.</b> A machine made the speech of this run. '
        "No result on it is a result on speech.</p>"
        if run.synthetic
        else ""
    )
    curves = [row for row in run.experiments if not is_recognition(row)]
    rates = [row for row in run.experiments if is_recognition(row)]
    verdicts = few_label_summary(curves) + recognition_summary(rates) + summary(run.probes)
    return f"<h1>Run {escape(run.name)}</h1>{lead}{note}{_numbers(run)}{verdicts}"


def _shape(run: Run) -> str:
    transformer = run.config.get("encoder", {}).get("transformer", {})
    if not transformer:
        return ""
    objective = run.config.get("objective", {}).get("name", "")
    blocks = f"{transformer.get('layers')} Transformer blocks of dimension {transformer.get('dim')}"
    return f"{objective} pretraining, {blocks}" if objective else f"An encoder with {blocks}"


def _numbers(run: Run) -> str:
    """The few figures one looks for first."""
    tiles: list[tuple[str, str]] = []
    if run.training:
        last = run.training[-1]
        tiles.append((f"{last['step']:,}", "updates"))
        tiles.append((_duration(float(last.get("seconds_seen", 0.0))), "audio seen"))
        tiles.append((_duration(run.wall_seconds), "training time, about"))
    measured = next((row for row in reversed(run.validation) if "accuracy" in row), None)
    if measured is not None:
        tiles.append((plain(float(measured["accuracy"])), "contrastive accuracy, validation"))
        loss = f"{float(measured['contrastive_loss']):.2f}" if "contrastive_loss" in measured else "–"
        chance = f" (chance {run.chance_loss:.2f})" if run.chance_loss is not None else ""
        tiles.append((loss, f"contrastive loss, validation{chance}"))
    if not tiles:
        return ""
    cells = "".join(f"<div><b>{escape(value)}</b><span>{escape(words)}</span></div>" for value, words in tiles)
    return f'<div class="numbers">{cells}</div>'


def _what_was_run(run: Run) -> str:
    facts: list[tuple[str, str]] = []
    known = run.provenance
    if known.get("corpora"):
        hours = f", {known['hours']:g} h to train on" if "hours" in known else ""
        synthetic = " (synthetic)" if known.get("synthetic") else ""
        facts.append(("trained on", ", ".join(Path(str(each)).name for each in known["corpora"]) + hours + synthetic))
    facts += _settings(run)
    if known.get("command"):
        facts.append(("pretraining", f"<code>{escape(str(known['command']))}</code>"))
    commands = dict.fromkeys(row.command for row in run.results if row.command)
    facts += [("evaluation", f"<code>{escape(command)}</code>") for command in commands]
    versions = f"speechssl {known.get('speechssl', __version__)}"
    if known.get("torch"):
        versions += f", torch {known['torch']}"
    facts.append(("versions", escape(versions)))
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{value}</td></tr>" for name, value in facts)
    return f'<h2>What was run</h2><table class="facts">{rows}</table>'


def _settings(run: Run) -> list[tuple[str, str]]:
    """The settings that shape a run most, in words; the whole recipe lies in the run's folder."""
    facts: list[tuple[str, str]] = []
    conv = run.config.get("encoder", {}).get("conv", {})
    if conv:
        layers = len(conv.get("layers", []))
        words = f"{layers} convolutions, first {conv.get('front')}, initialised {conv.get('init')}"
        facts.append(("front end", f"{words}, {conv.get('norm')} norm"))
    objective = run.config.get("objective", {})
    if "quantizer" in objective and "mask" in objective:
        quantizer, mask = objective["quantizer"], objective["mask"]
        words = f"{quantizer['groups']} × {quantizer['codes']} codes, {objective.get('negatives')} negatives"
        facts.append(("objective", f"{words}, mask {mask.get('probability')} in spans of {mask.get('length')} frames"))
    crops, optim = run.recipe.get("crops", {}), run.recipe.get("optim", {})
    if crops:
        facts.append(("batch", f"{crops['batch_seconds']:g} s of audio in crops of {crops['seconds']:g} s"))
    if optim:
        facts.append(("learning rate", f"at most {optim['max_lr']:g}"))
    if "seed" in run.recipe:
        facts.append(("seed", str(run.recipe["seed"])))
    return [(name, escape(words)) for name, words in facts]


def _learning(run: Run) -> str:
    if not run.training:
        return f"<h2>Learning</h2>{missing('No training log lies in this folder, so there are no learning curves.')}"
    health = run.recipe.get("health", {})
    alarms = (
        f" The run is stopped when determinism stays below {health['min_determinism']:g}, stability below "
        f"{health['min_stability']:g}, or the constant share above {health['max_constant_share']:g}."
        if {"min_determinism", "min_stability", "max_constant_share"} <= health.keys()
        else ""
    )
    learning = (
        "The model picks the true target of a masked frame among distractors of the same utterance. At the dashed line "
        "it knows nothing; a healthy run may stay there for its first few hundred updates."
    )
    codes = (
        "Perplexity: how many codes of a group are in effective use. Determinism: mean largest code probability. "
        "Stability: share of codes that survive a shift of the audio by 5 ms. Constant share: how much of the "
        f"features' power never changes.{alarms}"
    )
    return (
        f"<h2>Learning</h2>{_figure(plots.learning_curves(run), learning)}"
        f"<h3>Health of the codes</h3>{_figure(plots.health_curves(run), codes)}"
    )


def _figure(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{caption}</figcaption></figure>"


def _probes(run: Run) -> str:
    title = "<h2>Few labels</h2>"
    if not run.probes:
        return title + missing("No probe has been run yet: `speechssl evaluate` writes results.json into this folder.")
    parts = [title, "<p>A probe learns from a few labelled utterances per class on frozen features.</p>"]
    for task in dict.fromkeys(row.task for row in run.probes):
        first = next(row for row in run.probes if row.task == task)
        corpus = Path(first.corpus).name
        on = f" on {corpus}" if corpus else ""
        synthetic = " (synthetic speech)" if first.synthetic else ""
        setting = f"{first.classes} classes, {first.split} between training and test, {first.seeds} draws"
        parts.append(f"<h3>{escape(task)}{escape(on)}{synthetic}: {setting}</h3>")
        parts.append(f"<figure>{plots.shots_curves(run.probes, task)}</figure>")
        parts.append(score_table(run.probes, task, metric="UAR"))
        parts.append(gain_table(run.probes, task))
        accuracy = score_table(run.probes, task, metric="WA")
        parts.append(f"<details><summary>Plain accuracy (WA)</summary>{accuracy}</details>")
    return "\n".join(parts)


def _map(run: Run) -> str:
    title = "<h2>Map of the embeddings</h2>"
    if run.map is None:
        return title + missing("No map has been made yet: `speechssl evaluate` writes map.npz into this folder.")
    caption = (
        f"{len(run.map.points):,} test utterances of the first draw, last layer, in two dimensions by "
        f"{escape(run.map.method)}. Neighbours on the map are alike; distances between far groups mean nothing."
    )
    return title + _figure(plots.embedding_map(run.map), caption)


def _foot() -> str:
    return f'<p class="caption">Written by speechssl {__version__} with matplotlib {version("matplotlib")}.</p>'


def _duration(seconds: float) -> str:
    """Seconds in the unit one would say.

    >>> _duration(42.0), _duration(185.0), _duration(5400.0), _duration(360000.0)
    ('42 s', '3.1 min', '1.5 h', '100 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 100 else f"{hours:,.0f} h"
