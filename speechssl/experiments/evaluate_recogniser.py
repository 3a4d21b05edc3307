"""Evaluation of a fine-tuned recogniser on a prepared corpus, without its known training recordings."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from speechssl.config import UserError, digest
from speechssl.data.names import is_synthetic, utterance_ids
from speechssl.data.splits import in_split
from speechssl.data.utterance import Utterance, said, wordless_note
from speechssl.data.waveforms import WaveformStore
from speechssl.experiments.asr_decoder import ngram_text
from speechssl.experiments.asr_ngram import LM_TEXT, transcripts_in_record
from speechssl.experiments.held_out import HeldOut
from speechssl.inference.predictor import Predictor, Transcript
from speechssl.metrics.items import Answers, items_path, write_items
from speechssl.metrics.results import ResultRow, write_results
from speechssl.metrics.wer import EditCounts, Unit, count_errors, error_rate
from speechssl.models.ctc import CTCModel
from speechssl.models.storage import model_hash
from speechssl.terminal import say
from speechssl.text import TEXT_RULES, dotless_i

TASK = "recognition"
UNITS: dict[str, Unit] = {"WER": "word", "CER": "character"}
_CHUNK = 64  # utterances whose waveforms are in memory at once


def transcribed(store: WaveformStore, *, split: str | None) -> list[int]:
    """Utterances with a transcript, of one split or of all.

    Raises:
        UserError: there is none, or no such split.
    """
    found = in_split(store.utterances, split, where=store.folder)
    chosen = [index for index in found if said(store.utterances[index])]
    if note := wordless_note(store.utterances[index] for index in found):
        say(note)
    if len(chosen) < 2:
        where = "" if split is None else f" in the split {split!r}"
        raise UserError(f"{store.folder}: {len(chosen)} utterances with a transcript{where}; an interval needs 2")
    return chosen


def evaluate_recogniser(
    model: Path, store: WaveformStore, side: HeldOut, out: Path, *, config: Mapping[str, Any], command: str
) -> list[ResultRow]:
    """Word and character error rates, greedy and with the n-gram of the model's folder where there is one.

    Args:
        model: the folder of a model with a CTC head.
        store: the test corpus.
        side: its utterances with transcripts that are scored, and what is known about them.
        out: the JSON file of rows; the errors of each utterance, for `speechssl compare`, are written beside it.
        config: the model's `config.json`.
        command: the command line, kept in every row.

    Returns:
        The rows, with intervals by utterance.
    """
    chosen = side.chosen
    if len(chosen) < 2:
        raise UserError(f"{store.folder}: {len(chosen)} utterances are left to score; an interval needs 2")
    for note in rules_notes(config, [store.utterances[index] for index in chosen]):
        say(note)
    references = [said(store.utterances[index]) for index in chosen]
    every = utterance_ids(store.utterances)
    ids = [every[index] for index in chosen]
    rows: list[ResultRow] = []
    answers: list[Answers] = []
    for probe, predictor in ways(model):
        text = "" if probe == "greedy" else transcripts_in_record(references, model / LM_TEXT)
        if text:
            text = ": ".join(each for each in (ngram_text(model), text) if each)
            say(f"in the text of the n-gram: {text}")
        written = transcripts(predictor, store, chosen)
        for metric, unit in UNITS.items():
            counts = count_errors(references, written, unit=unit)
            answers.append(_answers(metric, probe, counts, ids))
            row = _row(metric, probe, counts, store, model=model, ids=ids, side=side, command=command)
            rows.append(replace(row, lm_text=text))
    write_items(items_path(out), answers)
    write_results(rows, out)
    for row in rows:
        say(f"{row.metric}, {row.probe}: {row.value:.3f} [{row.low:.3f}, {row.high:.3f}] on {row.n} utterances")
    return rows


def rules_notes(config: Mapping[str, Any], items: Sequence[Utterance]) -> list[str]:
    """Notes on differences in normalisation between a model's training transcripts and the test transcripts.

    Args:
        config: the model's `config.json`.
        items: the test utterances.
    """
    training: Mapping[str, Any] = config.get("training", {})
    rules = training.get("text_rules", 1)
    notes: list[str] = []
    if rules != TEXT_RULES:
        notes.append(
            f"the model learnt transcripts by version {rules} of the rules for words, and is scored by version "
            f"{TEXT_RULES}: where the two differ (tone letters, 3.14, ｶﾞ, …), errors are counted; train it again"
        )
    learnt = {dotless_i(name) for name in training.get("languages", ())} or {False}
    scored = {dotless_i(item.language) for item in items}
    if learnt.isdisjoint(scored):
        given = ("training", "test") if True in learnt else ("test", "training")
        notes.append(
            f"the {given[0]} corpus has a language with a dotless ı (I becomes ı), the {given[1]} corpus does not; "
            "write the language into both manifests"
        )
    return notes


def ways(model: Path) -> list[tuple[str, Predictor]]:
    """The decodings of a recogniser's folder: greedy, where it writes words, and with its n-gram, where it has one."""
    own = Predictor(model)
    assert isinstance(own.model, CTCModel)
    if not own.model.vocabulary.writes_words:
        return [("n-gram", own)]
    greedy = Predictor(model, lm=False)
    return [("greedy", greedy)] if own.decoder is None else [("greedy", greedy), ("n-gram", own)]


def transcripts(predictor: Predictor, store: WaveformStore, chosen: Sequence[int]) -> list[str]:
    """Transcripts of utterances, in order."""
    texts: list[str] = []
    for start in range(0, len(chosen), _CHUNK):
        waveforms = [store.waveform(index) for index in chosen[start : start + _CHUNK]]
        for found in predictor.predict(waveforms):
            assert isinstance(found, Transcript)
            texts.append(found.text)
    return texts


def _answers(metric: str, probe: str, counts: Sequence[EditCounts], ids: Sequence[str]) -> Answers:
    return Answers(
        task=TASK,
        contender="fine-tuned",
        probe=probe,
        labels=0,
        unit="minutes",
        split_hash=digest(sorted(ids)),
        ids=ids,
        groups=ids,
        repetitions=[0] * len(ids),
        metric=metric,
        errors=[count.errors for count in counts],
        words=[count.words for count in counts],
    )


def _row(
    metric: str,
    probe: str,
    counts: Sequence[EditCounts],
    store: WaveformStore,
    *,
    model: Path,
    ids: Sequence[str],
    side: HeldOut,
    command: str,
) -> ResultRow:
    rate = error_rate(counts)
    known = "speakers" if side.speakers_known else "utterances"
    return ResultRow(
        task=TASK,
        contender="fine-tuned",
        probe=probe,
        labels=0,
        metric=metric,
        value=rate.value,
        low=rate.low,
        high=rate.high,
        n=rate.utterances,
        seeds=1,
        split=f"{side.rule(known)}, interval by utterance",
        command=command,
        corpus=str(store.folder),
        synthetic=is_synthetic(store),
        unit="minutes",
        split_hash=digest(sorted(ids)),
        model_hash=model_hash(model),
        training_audio=side.training,
        pretraining_audio=side.pretraining,
        left_out=side.left_out,
    )
