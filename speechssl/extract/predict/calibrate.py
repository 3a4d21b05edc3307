"""A speaker's unlabelled recordings to the statistics that a model keeps of the speaker (`inference.speakers`)."""

import os
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from speechssl.audio import SAMPLE_RATE
from speechssl.config import UserError
from speechssl.device import device_of
from speechssl.extract.decode import Decoded, Decoding, Failed
from speechssl.extract.decode import parts_of as decoded_parts
from speechssl.extract.plan import Item
from speechssl.extract.predict.parts import LONG_SECONDS, PART_CLIPS, PART_SECONDS
from speechssl.extract.predict.run import read_sources
from speechssl.inference.heads import pooled_vectors
from speechssl.inference.speakers import FEW_RECORDINGS, Speaker, speaker_of, write_speaker
from speechssl.models.classifier import Classifier
from speechssl.models.heads import load_head
from speechssl.terminal import say

_AUDIO_BYTES = 1 << 26  # of decoded audio that may wait


def calibrate_on(folder: Path, recordings: str, *, name: str, device: str = "auto") -> Speaker:
    """Compute a speaker's mean and deviation once, and keep them in the model folder.

    Args:
        folder: a model that was trained with each speaker's mean and deviation taken out.
        recordings: a folder of the speaker's recordings, or another source of `predict`; labels are not read.
        name: of the speaker.
        device: as in `speechssl.load`.

    Raises:
        UserError: another model, no such source, or fewer than three usable recordings.
    """
    model = load_head(folder)
    if not isinstance(model, Classifier) or not model.by_speaker:
        raise UserError(
            f"{folder}: was not trained with each speaker's mean and deviation taken out; --speaker and "
            "--speaker-folder are for models of `speechssl emotion --standardise speaker --save-model`"
        )
    model.to(device_of(device))
    vectors: list[np.ndarray] = []
    failed = 0
    with tempfile.TemporaryDirectory(prefix="speechssl-") as spool, _decoding(recordings, Path(spool)) as clips:
        for part in decoded_parts(clips, most_seconds=PART_SECONDS, most_clips=PART_CLIPS):
            usable = [clip for clip in part if not isinstance(clip, Failed)]
            for clip in part:
                if isinstance(clip, Failed):
                    say(f"{clip.item.path}: {clip.reason}")
            failed += len(part) - len(usable)
            vectors += list(pooled_vectors(model, [c.waveform if isinstance(c, Decoded) else c.clip for c in usable]))
            for clip in usable:
                clips.free(clip)
    speaker = speaker_of(name, np.array(vectors).reshape(len(vectors), len(model.centre)))
    write_speaker(folder, speaker)
    few = f"; fewer than {FEW_RECORDINGS} are few" if speaker.recordings < FEW_RECORDINGS else ""
    lost = f", {failed} could not be used" if failed else ""
    say(f"{folder}: speaker {name!r} kept, from {speaker.recordings} recordings{lost}{few}")
    return speaker


@contextmanager
def _decoding(recordings: str, spool: Path) -> Generator[Decoding]:
    items: Iterator[Item] = read_sources([recordings]).items()
    clips = Decoding(items, budget=_AUDIO_BYTES, long_samples=round(LONG_SECONDS * SAMPLE_RATE), spool=spool)
    with clips.running([clips.decode] * min(4, os.cpu_count() or 1), name="decode"):
        yield clips
