"""A fine-tuned model scored on a prepared corpus without the recordings and speakers that it is known to be trained on.

The model's `training_audio.json` and `config.json` record the recordings and speakers that it was trained on. A
recording or a speaker on both sides is refused, or left out on request: the score would be that of a known voice.
Recordings are compared by their samples, so a copy under another name is found and an altered one is not. Speakers are
compared by their names in a manifest; in another corpus the same name may be another person, which `other_speakers`
declares.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from speechssl.config import UserError, digest
from speechssl.data.alike_names import some
from speechssl.data.names import is_synthetic, utterance_ids
from speechssl.data.splits import in_split
from speechssl.data.values import alike
from speechssl.data.waveforms import WaveformStore
from speechssl.experiments.evaluate_recogniser import evaluate_recogniser, transcribed
from speechssl.experiments.held_out import HeldOut, untrained
from speechssl.experiments.scores import confusion_path, write_confusion
from speechssl.experiments.training import predict_classes
from speechssl.metrics.classification import METRICS, bootstrap_interval
from speechssl.metrics.items import Answers, items_path, write_items
from speechssl.metrics.results import ResultRow, write_results
from speechssl.models.storage import model_hash, read_model_config
from speechssl.terminal import say

TASK = "classification"


def evaluate_head(
    model: Path,
    corpus: Path,
    out: Path,
    *,
    split: str | None = None,
    other_speakers: bool = False,
    leave_out: bool = False,
    command: str = "",
) -> list[ResultRow]:
    """Score a fine-tuned classifier on the labelled utterances of a corpus, or a recogniser on the transcribed ones.

    Args:
        model: the folder of a fine-tuned model.
        corpus: a prepared corpus with labels, or transcripts.
        out: the JSON file of rows; the answers per item, for `speechssl compare`, are written beside it.
        split: only utterances of this split, case-insensitive; None for all.
        other_speakers: speakers of this corpus with a name of the training corpus are other people.
        leave_out: leave out utterances that the model was trained on, and those of its training speakers.
        command: the command line, kept in every row.

    Returns:
        The rows: UAR, WA and macro F1 with intervals by speaker; WER and CER with intervals by utterance.

    Raises:
        UserError: no model or corpus, a model without a head, a recording or a speaker that was trained on, or no
            utterance to score.
    """
    if out.is_dir():
        raise UserError(f"{out}: is a folder; give the name of a JSON file")
    config = read_model_config(model)
    kind = config.get("head", {}).get("kind")
    store = WaveformStore(corpus)
    if kind == "ctc":
        found = transcribed(store, split=split)
        side = untrained(model, config, store, found, other_speakers=other_speakers, leave_out=leave_out)
        return evaluate_recogniser(model, store, side, out, config=config, command=command)
    if kind != "classifier":
        raise UserError(f"{model}: cannot score a head of kind {kind!r}; allowed are classifiers and recognisers")
    classes = [str(name) for name in config["head"]["classes"]]
    found = _labelled(store, split=split, classes=classes)
    side = untrained(model, config, store, found, other_speakers=other_speakers, leave_out=leave_out)
    return _evaluate_classifier(model, store, side, out, classes=classes, command=command)


def _evaluate_classifier(
    model: Path,
    store: WaveformStore,
    side: HeldOut,
    out: Path,
    *,
    classes: Sequence[str],
    command: str,
) -> list[ResultRow]:
    chosen = side.chosen
    items = [store.utterances[i] for i in chosen]
    every = utterance_ids(store.utterances)
    groups, rule = _groups([store.speakers[i] for i in chosen], [every[i] for i in chosen], side)
    answers = Answers(
        task=TASK,
        contender="fine-tuned",
        probe="",
        labels=0,
        unit="shots",
        split_hash=digest(sorted(every[i] for i in chosen)),
        ids=[every[i] for i in chosen],
        groups=groups,
        repetitions=[0] * len(chosen),
        truth=[str(item.label) for item in items],
        predicted=predict_classes(model, store, np.array(chosen)),
    )
    counts = answers.counts()
    rows: list[ResultRow] = []
    for metric in METRICS:
        interval = bootstrap_interval(counts, metric)
        rows.append(
            ResultRow(
                task=TASK,
                contender="fine-tuned",
                probe="",
                labels=0,
                metric=metric,
                value=interval.value,
                low=interval.low,
                high=interval.high,
                n=len(chosen),
                seeds=1,
                split=rule,
                classes=len(classes),
                command=command,
                corpus=str(store.folder),
                synthetic=is_synthetic(store),
                split_hash=answers.split_hash,
                model_hash=model_hash(model),
                training_audio=side.training,
                pretraining_audio=side.pretraining,
                left_out=side.left_out,
            )
        )
    write_confusion(confusion_path(out), sorted({*classes, *answers.truth}), [answers])
    write_items(items_path(out), [answers])
    write_results(rows, out)
    for row in rows:
        say(f"{row.metric} {row.value:.3f} [{row.low:.3f}, {row.high:.3f}] on {row.n} utterances, {rule}")
    return rows


def _labelled(store: WaveformStore, *, split: str | None, classes: Sequence[str]) -> list[int]:
    chosen = in_split(store.utterances, split, where=store.folder)
    wanted = [i for i in chosen if store.utterances[i].label is not None]
    known = [i for i in wanted if store.utterances[i].label in classes]
    if not known:
        labels = sorted({str(store.utterances[i].label) for i in wanted})
        raise UserError(
            f"{store.folder}: no utterance has a label of the model; the model has {', '.join(classes)}, "
            f"the corpus has {some(labels) or 'none'}"
        )
    if len(known) < len(wanted):
        others = Counter(str(store.utterances[i].label) for i in set(wanted).difference(known))
        names = some([_unknown(name, count, classes) for name, count in sorted(others.items())])
        say(f"{len(wanted) - len(known)} utterances left out: the model does not have their labels: {names}")
    return known


def _unknown(label: str, count: int, classes: Sequence[str]) -> str:
    """Label that the model does not have, with the class that may be meant."""
    near = next((name for name in classes if alike(name) == alike(label)), None)
    meant = f", the model has {near!r}" if near is not None else ""
    return f"{label!r} ({count} x{meant})"


def _groups(speakers: Sequence[str | None], ids: Sequence[str], side: HeldOut) -> tuple[list[str], str]:
    """The group of each item that the interval resamples, and the split in words."""
    if None not in speakers and len(set(speakers)) > 1:
        return [str(speaker) for speaker in speakers], f"{side.rule('speakers')}, interval by speaker"
    if len(ids) < 2:
        raise UserError("an interval needs at least 2 test utterances")
    return list(ids), f"{side.rule('utterances')}, interval by utterance"
