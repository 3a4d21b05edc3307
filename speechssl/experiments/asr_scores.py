"""Results of a speech recognition experiment: rows, answers for paired comparisons, the worst utterances."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from speechssl.data.names import is_synthetic
from speechssl.data.waveforms import WaveformStore
from speechssl.experiments.asr_sides import RecognitionSides, names_of
from speechssl.metrics.items import Answers
from speechssl.metrics.results import ResultRow
from speechssl.metrics.wer import EditCounts, count_errors, error_rate, error_rate_difference

METRICS = ("WER", "CER")
GREEDY, NGRAM = "greedy", "n-gram"  # decodings
WORST = 20  # utterances shown in the report


@dataclass(frozen=True)
class Scores:
    """A model's transcripts of the test side with one decoding."""

    contender: str
    probe: str
    words: list[EditCounts]
    characters: list[EditCounts]
    written: list[str]
    model_hash: str

    def counts(self, metric: str) -> list[EditCounts]:
        """Edit counts of words for the WER, of characters for the CER."""
        return self.words if metric == "WER" else self.characters


def score(contender: str, probe: str, written: list[str], *, sides: RecognitionSides, model_hash: str) -> Scores:
    """Count the errors of the transcripts of the test side."""
    references = [example.target for example in sides.test]
    words, characters = count_errors(references, written), count_errors(references, written, unit="character")
    return Scores(contender, probe, words=words, characters=characters, written=written, model_hash=model_hash)


def minutes_of(store: WaveformStore, sides: RecognitionSides) -> int:
    """Labelled minutes, rounded, at least 1."""
    return max(1, round(sum(store.utterances[example.index].duration for example in sides.labelled) / 60))


def rows_of(
    store: WaveformStore, sides: RecognitionSides, scores: Sequence[Scores], *, corpus: Path, command: str
) -> list[ResultRow]:
    """One row of WER and one of CER per score; ``gains`` are the others' rates minus its own, with paired intervals."""
    rows: list[ResultRow] = []
    for each in scores:
        rivals = [other for other in scores if other.probe == each.probe and other.contender != each.contender]
        for metric in METRICS:
            rate = error_rate(each.counts(metric))
            gains: dict[str, list[float]] = {}
            for other in rivals:
                gain = error_rate_difference(other.counts(metric), each.counts(metric))
                gains[other.contender] = [gain.value, gain.low, gain.high]
            rows.append(
                ResultRow(
                    task="asr",
                    contender=each.contender,
                    probe=each.probe,
                    labels=minutes_of(store, sides),
                    metric=metric,
                    value=rate.value,
                    low=rate.low,
                    high=rate.high,
                    n=rate.utterances,
                    seeds=1,
                    split=sides.rule,
                    command=command,
                    gains=gains,
                    corpus=str(corpus),
                    synthetic=is_synthetic(store),
                    unit="minutes",
                    split_hash=sides.split_hash,
                    model_hash=each.model_hash,
                )
            )
    return rows


def answers_of(store: WaveformStore, sides: RecognitionSides, scores: Sequence[Scores]) -> list[Answers]:
    """Error counts of every model per utterance, for paired comparisons of runs."""
    names = names_of(store)
    ids = [names[example.index] for example in sides.test]
    return [
        Answers(
            task="asr",
            contender=each.contender,
            probe=each.probe,
            labels=minutes_of(store, sides),
            unit="minutes",
            split_hash=sides.split_hash,
            ids=ids,
            groups=ids,
            repetitions=[0] * len(ids),
            metric=metric,
            errors=[count.errors for count in each.counts(metric)],
            words=[count.words for count in each.counts(metric)],
        )
        for each in scores
        for metric in METRICS
    ]


def worst_of(
    store: WaveformStore, sides: RecognitionSides, scores: Sequence[Scores], *, rivals: Collection[str] = ()
) -> dict[str, object]:
    """Content of `worst.json`: errors by kind of every model, and the best model's utterances with the most errors.

    Args:
        store: the prepared corpus.
        sides: those of the experiment.
        scores: of all contenders.
        rivals: contenders whose utterances are not shown.
    """
    own = [each for each in scores if each.contender not in rivals]
    best = min(own, key=lambda each: sum(count.errors for count in each.words))
    order = sorted(range(len(best.words)), key=lambda i: (-best.words[i].errors, i))[:WORST]
    kinds: list[dict[str, object]] = []
    for each in scores:
        rate = error_rate(each.words)
        known = ("substitutions", "deletions", "insertions", "words", "utterances")
        kind: dict[str, object] = {name: getattr(rate, name) for name in known}
        kinds.append({"contender": each.contender, "probe": each.probe, **kind})
    utterances: list[dict[str, object]] = []
    for i in order:
        item = store.utterances[sides.test[i].index]
        entry: dict[str, object] = {"audio": item.audio, "offset": item.offset, "duration": item.duration}
        entry |= {"said": sides.test[i].target, "written": best.written[i], "errors": best.words[i].errors}
        utterances.append(entry)
    return {"contender": best.contender, "probe": best.probe, "kinds": kinds, "utterances": utterances}
