"""What a model gives on a labelled corpus: every measurement that the corpus allows, beside its baselines.

- The probes of `evaluate` (labels, speakers, texts).
- Speaker verification by similarity (`judge_verification`).
- Where labels and speakers are known, the contenders `fusion` and `mfcc-best` of `emotion`, with the most shots that
  fit.

No network is trained. A task that the corpus does not allow is left out with its reason.

The run folder holds `parts/`, one folder per measurement with its own results, and, of all of them together,
`results.json`, `results.items.json.gz`, `confusion.json`, `map.npz`, `judge.json` (what was left out) and
`report.html`.
A part whose corpus, model and settings have not changed is not computed again.
"""

import json
import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from speechssl.config import UserError, digest
from speechssl.data.training_audio import TRAINING_AUDIO
from speechssl.data.waveforms import WaveformStore
from speechssl.experiments.compare_objectives_probes import speaker_trials
from speechssl.experiments.emotion import few_label_task, label_efficiency
from speechssl.experiments.evaluate import evaluate, probe_task
from speechssl.experiments.judge_verification import verify_speakers
from speechssl.files import hold_folder, replacing_path, write_atomic
from speechssl.metrics.headlines import headlines, score_words
from speechssl.metrics.items import Answers, items_path, read_items, write_items
from speechssl.metrics.probe_splits import PROBE_TASKS
from speechssl.metrics.results import VERIFICATION, ResultRow, read_results, write_results
from speechssl.metrics.verification import Trials
from speechssl.models.storage import model_hash, read_model_config
from speechssl.report.html import write_report
from speechssl.terminal import say

FUSED = "label, fused"
"""Task of the contenders that are whole methods; `label` is that of the probes."""
CONTENDERS = ("fusion", "mfcc-best")
_VERSION = 1  # part of a key; raised when the code gives other rows for equal settings


@dataclass(frozen=True)
class Settings:
    """Settings of the draws.

    Attributes:
        shots: labelled utterances per class.
        seeds: number of draws.
        test_limit: approximate number of test utterances per draw.
    """

    shots: Sequence[int] = (5, 10, 25)
    seeds: int = 5
    test_limit: int = 1000


@dataclass
class _Plan:
    """What a corpus allows, and the reasons for what it does not."""

    probes: list[str] = field(default_factory=list[str])
    trials: Trials | None = None
    fused_shots: int = 0
    left_out: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def empty(self) -> bool:
        return not (self.probes or self.fused_shots) and self.trials is None


def judge(
    corpus: Path,
    model: Path,
    out: Path,
    *,
    settings: Settings | None = None,
    command: str = "",
    device: str = "auto",
) -> list[ResultRow]:
    """Run every measurement that a corpus allows, write the results and the page, show one line per task on stderr.

    Args:
        corpus: a prepared corpus.
        model: a model folder without a head.
        out: the run folder.
        settings: of the draws; None: the defaults.
        command: the command line, kept in every row that is computed.
        device: as in `embedder.load`; `emotion`'s contenders choose it themselves.

    Returns:
        The rows of all parts.

    Raises:
        UserError: no corpus, no model, a model with a head, a corpus that allows nothing (with the reason per task),
            or another process that writes to `out`.
    """
    settings = settings or Settings()
    if "head" in read_model_config(model):
        raise UserError(f"{model}: is fine-tuned, judge takes a model without a head; use speechssl evaluate")
    store = WaveformStore(corpus)
    plan = _planned(store, settings)
    for task, reason in plan.left_out.items():
        say(f"left out, {task}: {reason}")
    if plan.empty:
        raise UserError(f"{corpus}: nothing to judge, it needs speakers with several recordings, and labels for more")
    run = _Run(corpus, store, model, settings, folder=out / "parts", command=command, device=device)
    with hold_folder(out):
        rows = run.rows(plan)
        write_items(items_path(out / "results.json"), run.items())
        for source, name in (("probes", "map.npz"), ("fused", "confusion.json")):
            _copy(out / "parts" / source / name, out / name, wanted=source in run.parts)
        write_atomic(out / "judge.json", json.dumps({"left_out": plan.left_out}, ensure_ascii=False) + "\n")
        write_results(rows, out / "results.json")
        write_report(out, out / "report.html")
    show_headlines(rows)
    say(f"report: {out / 'report.html'}")
    return rows


def _planned(store: WaveformStore, settings: Settings) -> _Plan:
    plan = _Plan()

    @contextmanager
    def attempt(task: str) -> Generator[None]:
        try:
            yield
        except UserError as error:
            plan.left_out[task] = str(error).removeprefix(f"{store.folder}: ")

    shots, seeds, limit = settings.shots, settings.seeds, settings.test_limit
    for name in PROBE_TASKS:
        with attempt(name):
            probe_task(store, name, shots=shots, seeds=seeds, test_limit=limit)
            plan.probes.append(name)
    with attempt(VERIFICATION):
        plan.trials = speaker_trials(store)
    with attempt(FUSED):
        plan.fused_shots = few_label_task(store, shots=shots, draws=seeds, test_limit=limit).levels[-1]
    return plan


@dataclass
class _Run:
    """The parts of a run, each in a folder of its own with the key of what its rows depend on."""

    corpus: Path
    store: WaveformStore
    model: Path
    settings: Settings
    folder: Path
    command: str
    device: str
    parts: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        self._key = _key(self.store, self.model)

    def rows(self, plan: _Plan) -> list[ResultRow]:
        """Rows of every part of the plan, stored or computed."""
        rows: list[ResultRow] = []
        draws = [self.settings.seeds, self.settings.test_limit]
        if plan.probes:
            key = [plan.probes, list(self.settings.shots), *draws]
            rows += self._part("probes", key, lambda results: self._probe(plan.probes, results))
        if (trials := plan.trials) is not None:
            rows += self._part("verification", [], lambda results: self._verify(trials, results))
        if plan.fused_shots:
            fused = self._part("fused", [plan.fused_shots, *draws], lambda results: self._fuse(plan, results.parent))
            rows += [replace(row, task=FUSED) for row in fused]
        return rows

    def items(self) -> list[Answers]:
        """Answers of the parts that have some."""
        found: list[Answers] = []
        for name in self.parts:
            path = items_path(self.folder / name / "results.json")
            items = read_items(path) if name != VERIFICATION else []
            found += [replace(each, task=FUSED) for each in items] if name == "fused" else items
        return found

    def _part(self, name: str, settings: Sequence[object], compute: Callable[[Path], None]) -> list[ResultRow]:
        """Rows of a part; `compute` writes them to the path that it is given, unless they are there with this key."""
        results, stamp = self.folder / name / "results.json", self.folder / name / "key"
        key = digest([_VERSION, *self._key, *settings])
        self.parts.append(name)
        known = stamp.read_text(encoding="utf-8") if stamp.exists() else None
        if known == key:
            say(f"{name}: computed already")
            return read_results(results)
        if known is not None:
            say(f"{results.parent} has other settings, another model or corpus; computed again")
            stamp.unlink()
        results.parent.mkdir(parents=True, exist_ok=True)
        compute(results)
        write_atomic(stamp, key)
        return read_results(results)

    def _probe(self, tasks: Sequence[str], results: Path) -> None:
        evaluate(
            self.model,
            self.corpus,
            results,
            tasks=tasks,
            shots=self.settings.shots,
            seeds=self.settings.seeds,
            test_limit=self.settings.test_limit,
            command=self.command,
            device=self.device,
        )

    def _verify(self, trials: Trials, results: Path) -> None:
        rows = verify_speakers(self.model, self.store, trials, command=self.command, device=self.device)
        write_results(rows, results)

    def _fuse(self, plan: _Plan, folder: Path) -> None:
        label_efficiency(
            self.corpus,
            self.model,
            folder,
            shots=[plan.fused_shots],
            draws=self.settings.seeds,
            contenders=CONTENDERS,
            test_limit=self.settings.test_limit,
            command=self.command,
        )


def _key(store: WaveformStore, model: Path) -> list[object]:
    """Samples, names and labels of the corpus; weights and record of the audio of pretraining of the model."""
    audio = model / TRAINING_AUDIO
    said = [[each.audio, each.offset, each.label, each.speaker, each.text, each.extras] for each in store.utterances]
    return [store.content_hash(), said, model_hash(model), audio.read_text("utf-8") if audio.exists() else ""]


def _copy(source: Path, target: Path, *, wanted: bool) -> None:
    """Copy a file of a part, or remove the copy of an earlier call where the part is not wanted any more."""
    if not wanted:
        target.unlink(missing_ok=True)
        return
    with replacing_path(target) as partial:
        shutil.copyfile(source, partial)


def show_headlines(rows: Sequence[ResultRow]) -> None:
    """Print one line per task on stderr: the model, the best baseline, the paired gain."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="gain: how much better the model is, paired 95 % interval")
    for name in ("task", "model", "best baseline", "gain"):
        table.add_column(name, no_wrap=True)
    for each in headlines(rows):
        table.add_row(each.setting, score_words(each.model), score_words(each.baseline), each.gain_words)
    Console(stderr=True, soft_wrap=True, width=160).print(table, markup=False)
