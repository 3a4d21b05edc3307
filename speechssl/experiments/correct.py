"""Further training of a recogniser on corrected transcripts, with its error rates before and after.

Vocabulary, units and head are those of the model, and so are the n-gram and the weights of its decoder. The new model
has a folder of its own: nothing in the folder of the old one is changed. A run that was killed resumes.
"""

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from speechssl.audio import SAMPLE_RATE
from speechssl.config import UserError, digest
from speechssl.data.joined_store import JoinedStore
from speechssl.data.labelled import Example
from speechssl.data.training_audio import NO_COPY, AudioRecord, pretraining_overlap, read_training_audio
from speechssl.data.waveforms import WaveformStore
from speechssl.experiments.asr_decoder import ngram_text
from speechssl.experiments.asr_ngram import LM_TEXT, transcripts_in_record
from speechssl.experiments.asr_rows import Origin, write_outcome
from speechssl.experiments.asr_scores import METRICS, NGRAM, Scores, score
from speechssl.experiments.asr_sides import RecognitionSides, names_of
from speechssl.experiments.correct_sides import CorrectedSides, divide_corrected, earlier_labels, refuse_symbols
from speechssl.experiments.evaluate_recogniser import rules_notes, transcripts, ways
from speechssl.files import replacing
from speechssl.inference.predictor import DECODER, LM
from speechssl.metrics.results import ResultRow
from speechssl.metrics.wer import error_rate, error_rate_difference
from speechssl.models.ctc import CTCModel
from speechssl.models.heads import load_head
from speechssl.models.storage import model_hash, read_model_config
from speechssl.train.finetune import FinetuneResult, finetune
from speechssl.train.finetune_config import FinetuneConfig, finetune_settings

BEFORE, AFTER = "before", "after"  # contenders
PASSES = 20  # over the utterances that are trained on
RATE = 0.3  # of fine-tuning's learning rate: the head is trained already (that of continued pretraining, not searched)
LEAST_STEPS = 100
KEPT = (LM, LM_TEXT, DECODER)  # files of the decoder


@dataclass(frozen=True)
class Correction:
    """What a recogniser is to be trained further on.

    Attributes:
        model: the folder of the recogniser.
        recogniser: it, loaded.
        store: the corpus with the corrected transcripts.
        sides: its utterances.
        joined: the corpora that are trained on.
        train: the utterances of ``joined`` that are trained on.
        notes: sentences for the user.
    """

    model: Path
    recogniser: CTCModel
    store: WaveformStore
    sides: CorrectedSides
    joined: WaveformStore
    train: list[Example]
    notes: tuple[str, ...]


def plan_correction(
    model: Path,
    corpus: Path,
    *,
    earlier: Path | None = None,
    labels: Path | None = None,
    test: Path | None = None,
    seed: int = 0,
) -> Correction:
    """Choose what is trained on and what is tested.

    Args:
        model: the folder of a model with a CTC head.
        corpus: a prepared corpus with the corrected transcripts.
        earlier: the prepared corpus with the earlier labels, which are trained on too.
        labels: list of the earlier labels; None takes those that the model was trained on, by its record.
        test: list of the corrected utterances to score; None uses the split ``test``, or draws a fifth.
        seed: seed of the draw.

    Raises:
        UserError: not a recogniser, a transcript that it has no symbols for, or a side that is empty or was trained on.
    """
    if labels is not None and earlier is None:
        raise UserError("--labels lists the earlier labels of --with CORPUS, which is not given")
    recogniser = load_head(model)
    if not isinstance(recogniser, CTCModel):
        raise UserError(
            f"{model}: a classifier; transcripts are corrected for a recogniser (finetune --learn text, asr)"
        )
    store, audio = WaveformStore(corpus), read_training_audio(model)
    sides = divide_corrected(store, audio, model=model, test=test, seed=seed)
    refuse_symbols(store, [*sides.train, *sides.test], recogniser.vocabulary, model=model)
    notes, joined, train = list(sides.notes), store, list(sides.train)
    if earlier is None:
        notes.append("the earlier labels are not at hand: give them with --with CORPUS, or the model may forget them")
    else:
        other = WaveformStore(earlier)
        everything = AudioRecord.of(store, [each.index for each in (*sides.train, *sides.test)])
        old, found = earlier_labels(other, audio, everything, model=model, labels=labels)
        refuse_symbols(other, old, recogniser.vocabulary, model=model)
        joined = JoinedStore([store, other])
        train += [Example(joined.first[1] + each.index, each.target) for each in old]
        notes += found
    tested = [each.index for each in sides.test]
    notes += rules_notes(read_model_config(model), [store.utterances[index] for index in tested])
    if not (audio.fine_tuning.known and audio.selection.known):
        notes.append(f"{model}: has no whole record of its training audio; it may have been trained on the test side")
    return Correction(model, recogniser, store, sides, joined=joined, train=train, notes=tuple(notes))


def correction_settings(plan: Correction) -> FinetuneConfig:
    """Settings of fine-tuning for the amount of speech, with the model's own head, a smaller rate and `PASSES`."""
    seconds = sum(int(plan.joined.lengths[each.index]) for each in plan.train) / SAMPLE_RATE
    base = finetune_settings("text", minutes=seconds / 60, dim=plan.recogniser.trunk.encoder.config.dim)
    steps = min(base.loop.steps, max(LEAST_STEPS, math.ceil(PASSES * seconds / base.batches.batch_seconds)))
    return base.model_copy(
        update={
            "ctc": plan.recogniser.config,
            "frozen": 0.0,
            "optim": base.optim.model_copy(update={"lr": RATE * base.optim.lr}),
            "loop": base.loop.model_copy(update={"steps": steps, "checkpoint_every": 250}),
        }
    )


def correct(
    plan: Correction, out: Path, *, config: FinetuneConfig, command: str = "", say: Callable[[str], None]
) -> tuple[FinetuneResult, list[ResultRow]]:
    """Train a recogniser further, and score it before and after.

    Args:
        plan: what is trained on and tested.
        out: the new model folder.
        config: settings of training; see `correction_settings`.
        command: the command line, kept in the model and in every row.
        say: called with each message.

    Returns:
        The result of training, and the rows, which ``results.json`` in ``out`` holds too; none while a run that was
        stopped is not finished.

    Raises:
        UserError: another head, or ``out`` is the model's folder or holds another model or run.
    """
    _refuse_settings(plan, config)
    _refuse_folder(plan.model, out)
    for note in plan.notes:
        say(note)
    scores = _scores(BEFORE, plan.model, plan)
    if not (out / "last.pt").exists():
        _copy_decoder(plan.model, out)  # before the weights: never a model without its n-gram
    result = finetune(
        plan.joined,
        out,
        config=config,
        start=plan.model,
        train=plan.train,
        continued=plan.recogniser,
        command=command,
    )
    if not result.finished:
        return result, []
    scores += _scores(AFTER, out, plan)
    rows = write_outcome(
        out,
        plan.store,
        _sides(plan),
        scores,
        origins=_origins(plan, scores, say=say),
        rivals=(),
        corpus=Path(str(plan.store.folder)),
        command=command,
    )
    for line in comparison(scores):
        say(line)
    return result, rows


def comparison(scores: Sequence[Scores]) -> list[str]:
    """One line per decoding and metric: the rates before and after, and their paired difference, with intervals."""
    lines: list[str] = []
    for before in (each for each in scores if each.contender == BEFORE):
        after = next(each for each in scores if each.contender == AFTER and each.probe == before.probe)
        for metric in METRICS:
            old, new = error_rate(before.counts(metric)), error_rate(after.counts(metric))
            change = error_rate_difference(after.counts(metric), before.counts(metric))
            lines.append(
                f"{metric}, {before.probe}: {old.value:.3f} [{old.low:.3f}, {old.high:.3f}] before, {new.value:.3f} "
                f"[{new.low:.3f}, {new.high:.3f}] after, difference {change.value:+.3f} [{change.low:+.3f}, "
                f"{change.high:+.3f}] on {new.utterances} utterances"
            )
    return lines


def _refuse_settings(plan: Correction, config: FinetuneConfig) -> None:
    if config.kind != "ctc" or config.ctc != plan.recogniser.config:
        raise UserError(f"kind and ctc.*: the head stays that of {plan.model}; leave these settings out")
    if config.encoder != FinetuneConfig().encoder:
        raise UserError(f"encoder.*: the encoder stays that of {plan.model}; leave these settings out")


def _refuse_folder(model: Path, out: Path) -> None:
    own, new = model.resolve(), out.resolve()
    if new.is_relative_to(own):
        raise UserError(f"{out}: is in the folder of the model {model}, which is not changed; choose another folder")
    if (out / "config.json").exists() and not (out / "last.pt").exists():
        raise UserError(f"{out}: holds a model already; choose another folder")


def _copy_decoder(model: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        if (model / name).is_file():
            with (model / name).open("rb") as source, replacing(out / name) as file:
                shutil.copyfileobj(source, file)


def _scores(contender: str, folder: Path, plan: Correction) -> list[Scores]:
    sides, own = _sides(plan), model_hash(folder)
    indices = [each.index for each in plan.sides.test]
    return [
        score(contender, probe, transcripts(predictor, plan.store, indices), sides=sides, model_hash=own)
        for probe, predictor in ways(folder)
    ]


def _sides(plan: Correction) -> RecognitionSides:
    names = names_of(plan.store)
    own = [sorted(names[each.index] for each in side) for side in (plan.sides.train, plan.sides.test)]
    return RecognitionSides(
        labelled=plan.sides.train,
        dev=[],
        test=plan.sides.test,
        unlabelled=[],
        sentences=[],
        rule=plan.sides.rule,
        notes=plan.notes,
        split_hash=digest(own),
    )


def _origins(
    plan: Correction, scores: Sequence[Scores], *, say: Callable[[str], None]
) -> dict[tuple[str, str], Origin]:
    """Training audio and text of the n-gram, as the rows name them."""
    audio, tested = read_training_audio(plan.model), [each.index for each in plan.sides.test]
    overlap = pretraining_overlap(audio, plan.store, tested)
    known = NO_COPY if audio.fine_tuning.known and audio.selection.known else "unknown"
    say(f"in the audio of pretraining: {overlap}")
    text = ""
    if any(each.probe == NGRAM for each in scores):
        found = transcripts_in_record([each.target for each in plan.sides.test], plan.model / LM_TEXT)
        say(f"in the text of the n-gram: {found}")
        text = ": ".join(each for each in (ngram_text(plan.model), found) if each)
    return {
        (each.contender, each.probe): Origin(known, overlap, text if each.probe == NGRAM else "") for each in scores
    }
