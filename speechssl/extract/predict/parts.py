"""Decoded clips to predictions, part by part, and the rows of `OUT.parts`."""

import json
import logging
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from speechssl.audio import SAMPLE_RATE, AudioError
from speechssl.data.coverage import Coverage
from speechssl.extract.decode import Decoded, DecodeResult, Decoding, Failed, Streamed, parts_of
from speechssl.extract.plan import Item
from speechssl.extract.shards import Part
from speechssl.inference.predictor import Prediction, Predictor

if TYPE_CHECKING:
    import pyarrow as pa

PART_SECONDS, PART_CLIPS = 120.0, 256  # predicted together, and kept together
LONG_SECONDS = 120.0  # a longer clip is read window by window
_AUDIO_BYTES = 1 << 26  # of decoded audio that may wait
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictedRow:
    """A clip, its length in seconds, and the prediction."""

    item: Item
    seconds: float
    prediction: Prediction


@dataclass(frozen=True)
class PredictedPart:
    """Predictions of a part, its failed clips, and for each clip in order whether it has a row."""

    rows: Sequence[PredictedRow]
    failed: Sequence[Failed]
    done: Sequence[bool]

    def in_order(self) -> Iterator[PredictedRow | Failed]:
        """Rows and failures in the order of the plan."""
        rows, failed = iter(self.rows), iter(self.failed)
        for done in self.done:
            yield next(rows) if done else next(failed)

    def part(self) -> Part:
        """What a run keeps of it; the prediction is JSON."""
        import pyarrow as pa

        columns: dict[str, Sequence[str | float]] = {
            "path": [row.item.path for row in self.rows],
            "offset": [row.item.offset for row in self.rows],
            "duration": [row.seconds for row in self.rows],
            "prediction": [json.dumps(asdict(row.prediction)) for row in self.rows],
            "key": [row.item.key.hex() for row in self.rows],
        }
        return Part(pa.Table.from_pydict(columns, schema=schema_of_rows()), self.failed, self.done)


def schema_of_rows() -> "pa.Schema":
    """Schema of the predictions in a shard."""
    import pyarrow as pa

    numbers = [(name, pa.float64()) for name in ("offset", "duration")]
    return pa.schema([("path", pa.string()), *numbers, ("prediction", pa.string()), ("key", pa.string())])


def predict_each(
    predictor: Predictor,
    items: Iterator[Item],
    *,
    spool: Path,
    count: Callable[[int, float, int], None] = lambda *_: None,
    coverage: Coverage | None = None,
) -> Generator[PredictedPart]:
    """Predicts clips in order, part by part; threads decode ahead.

    Args:
        predictor: the model.
        items: the clips.
        spool: a folder for local copies of files behind addresses.
        count: called with newly finished clips, their seconds of audio and failures.
        coverage: collects how far the clips reach in their files.
    """
    threads, long_samples = min(4, os.cpu_count() or 1), round(LONG_SECONDS * SAMPLE_RATE)
    clips = Decoding(items, budget=_AUDIO_BYTES, long_samples=long_samples, spool=spool)
    with clips.running([clips.decode] * threads, name="decode"):
        for part in parts_of(clips, most_seconds=PART_SECONDS, most_clips=PART_CLIPS):
            found = _predict_part(predictor, part, release=clips.free)
            if coverage is not None:
                _cover(coverage, part)
            count(len(part), sum(row.seconds for row in found.rows), len(found.failed))
            yield found


def _cover(coverage: Coverage, part: Sequence[DecodeResult]) -> None:
    for clip in part:
        if not isinstance(clip, Failed):
            end = clip.item.offset + clip.item.duration if clip.item.duration else None
            coverage.add(clip.item.path, end=end, whole=clip.file_seconds)


def _predict_part(
    predictor: Predictor, part: Sequence[DecodeResult], *, release: Callable[[DecodeResult], None]
) -> PredictedPart:
    whole = [clip for clip in part if isinstance(clip, Decoded)]
    outcomes = iter(predictor.outcomes([clip.waveform for clip in whole]))
    rows: list[PredictedRow] = []
    failed: list[Failed] = []
    done: list[bool] = []
    for clip in part:
        if isinstance(clip, Failed):
            failed.append(clip)
            done.append(False)
            continue
        for note in clip.notes:
            _log.warning("%s: %s", clip.item.location, note)
        outcome = next(outcomes) if isinstance(clip, Decoded) else _predict_long(predictor, clip)
        release(clip)
        done.append(not isinstance(outcome, str))
        if isinstance(outcome, str):
            failed.append(Failed(clip.item, outcome))
        else:
            rows.append(PredictedRow(clip.item, clip.seconds, outcome))
    return PredictedPart(rows, failed, done)


def _predict_long(predictor: Predictor, clip: Streamed) -> Prediction | str:
    try:
        return predictor.outcomes([clip.clip])[0]
    except AudioError as error:
        return error.reason
