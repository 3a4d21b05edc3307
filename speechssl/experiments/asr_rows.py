"""Files with the results of a speech recognition experiment, of its own recognisers and of their rivals."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from speechssl.data.training_audio import NO_COPY, TrainingAudio
from speechssl.data.waveforms import WaveformStore
from speechssl.experiments.asr_rivals import Rival
from speechssl.experiments.asr_scores import NGRAM, Scores, answers_of, rows_of, worst_of
from speechssl.experiments.asr_sides import RecognitionSides
from speechssl.files import write_atomic
from speechssl.metrics.items import items_path, write_items
from speechssl.metrics.results import ResultRow, write_results


@dataclass(frozen=True)
class Origin:
    """Data of a contender, as its rows name them; the attributes are those of `ResultRow`."""

    training_audio: str
    pretraining_audio: str
    lm_text: str


def own_origins(
    scores: Sequence[Scores], *, texts: Mapping[str, str], scratch: str, audio: TrainingAudio, overlap: str
) -> dict[tuple[str, str], Origin]:
    """Origins by contender and decoding of the recognisers that the experiment trains.

    Args:
        scores: theirs.
        texts: text of the n-gram of each contender.
        scratch: the contender without pretraining.
        audio: training audio of the encoder.
        overlap: how many test recordings are in it, in words.
    """
    found: dict[tuple[str, str], Origin] = {}
    for each in scores:
        fresh = each.contender == scratch
        trained_on = NO_COPY if fresh or audio.fine_tuning.known else "unknown"
        text = texts[each.contender] if each.probe == NGRAM else ""
        found[each.contender, each.probe] = Origin(trained_on, "" if fresh else overlap, text)
    return found


def rival_origins(rivals: Sequence[Rival], *, audio: TrainingAudio, overlap: str) -> dict[tuple[str, str], Origin]:
    """Those of the rivals; see `own_origins`."""
    found: dict[tuple[str, str], Origin] = {}
    for each in rivals:
        trained_on = "unknown" if each.pretrained and not audio.fine_tuning.known else each.training_audio
        origin = Origin(trained_on, overlap if each.pretrained else "", each.lm_text)
        found[each.scores.contender, each.scores.probe] = origin
    return found


def write_outcome(
    out: Path,
    store: WaveformStore,
    sides: RecognitionSides,
    scores: Sequence[Scores],
    *,
    origins: Mapping[tuple[str, str], Origin],
    rivals: Sequence[Rival],
    corpus: Path,
    command: str,
) -> list[ResultRow]:
    """Write `results.json`, the answers beside it and `worst.json`; returns the rows."""
    everyone = [*scores, *(each.scores for each in rivals)]
    rows = [
        replace(row, **vars(origins[row.contender, row.probe]))
        for row in rows_of(store, sides, everyone, corpus=corpus, command=command)
    ]
    write_items(items_path(out / "results.json"), answers_of(store, sides, everyone))
    worst = worst_of(store, sides, everyone, rivals={each.scores.contender for each in rivals})
    write_atomic(out / "worst.json", json.dumps(worst, ensure_ascii=False, indent=1).encode())
    write_results(rows, out / "results.json")
    return rows
