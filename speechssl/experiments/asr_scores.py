"""What a speech recognition experiment writes down: rows, answers for paired comparisons, the worst utterances."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from speechssl.data.names import is_synthetic
from speechssl.data.waveforms import WaveformStore
from speechssl.experiments.asr_division import Division, names_of
from speechssl.metrics.items import Answers
from speechssl.metrics.results import ResultRow
from speechssl.metrics.wer import EditCounts, count_errors, error_rate, error_rate_difference

METRICS = ("WER", "CER")
WORST = 20  # utterances shown in the report


@dataclass(frozen=True)
class Scores:
    """A model's answers for the test side with one way of decoding."""

    contender: str
    probe: str
    words: list[EditCounts]
    characters: list[EditCounts]
    written: list[str]
    model_hash: str

    def counts(self, metric: str) -> list[EditCounts]:
        """Of words for the WER, of characters for the CER."""
        return self.words if metric == "WER" else self.characters


def score(contender: str, probe: str, written: list[str], *, division: Division, model_hash: str) -> Scores:
    """Count the errors of what was written for the test side."""
    said = [example.target for example in division.test]
    words, characters = count_errors(said, written), count_errors(said, written, unit="character")
    return Scores(contender, probe, words=words, characters=characters, written=written, model_hash=model_hash)


def minutes_of(store: WaveformStore, division: Division) -> int:
    """Labelled minutes, to the nearest; one at least."""
    return max(1, round(sum(store.utterances[example.index].duration for example in division.labelled) / 60))


def rows_of(
    store: WaveformStore, division: Division, scores: Sequence[Scores], *, corpus: Path, command: str
) -> list[ResultRow]:
    """A row of WER and one of CER for each; ``gains`` are what it has less than the others, with paired intervals."""
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
                    labels=minutes_of(store, division),
                    metric=metric,
                    value=rate.value,
                    low=rate.low,
                    high=rate.high,
                    n=rate.utterances,
                    seeds=1,
                    split=division.rule,
                    command=command,
                    gains=gains,
                    corpus=str(corpus),
                    synthetic=is_synthetic(store),
                    unit="minutes",
                    split_hash=division.split_hash,
                    model_hash=each.model_hash,
                )
            )
    return rows


def answers_of(store: WaveformStore, division: Division, scores: Sequence[Scores]) -> list[Answers]:
    """What every model wrote, counted utterance by utterance, for paired comparisons of runs."""
    names = names_of(store)
    ids = [names[example.index] for example in division.test]
    return [
        Answers(
            task="asr",
            contender=each.contender,
            probe=each.probe,
            labels=minutes_of(store, division),
            unit="minutes",
            split_hash=division.split_hash,
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


def worst_of(store: WaveformStore, division: Division, scores: Sequence[Scores]) -> dict[str, object]:
    """`worst.json`: errors by kind of every model, and the utterances with the most wrong words of the best one."""
    best = min(scores, key=lambda each: sum(count.errors for count in each.words))
    order = sorted(range(len(best.words)), key=lambda i: (-best.words[i].errors, i))[:WORST]
    kinds: list[dict[str, object]] = []
    for each in scores:
        rate = error_rate(each.words)
        known = ("substitutions", "deletions", "insertions", "words", "utterances")
        kind: dict[str, object] = {name: getattr(rate, name) for name in known}
        kinds.append({"contender": each.contender, "probe": each.probe, **kind})
    utterances: list[dict[str, object]] = []
    for i in order:
        item = store.utterances[division.test[i].index]
        told: dict[str, object] = {"audio": item.audio, "offset": item.offset, "duration": item.duration}
        told |= {"said": division.test[i].target, "written": best.written[i], "errors": best.words[i].errors}
        utterances.append(told)
    return {"contender": best.contender, "probe": best.probe, "kinds": kinds, "utterances": utterances}
