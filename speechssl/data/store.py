"""A prepared corpus on disk: its files, its index, and random access to its waveforms."""

import hashlib
import json
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Int16, Int64
from pydantic import ValidationError

from speechssl.audio import SAMPLE_RATE
from speechssl.config import Config, UserError
from speechssl.data.manifest import read_manifest
from speechssl.data.utterance import Utterance

VERSION = 1
MANIFEST, REJECTS, WAVEFORMS, INDEX = "manifest.jsonl", "rejects.jsonl", "waveforms.i16", "waveforms.json"
SAMPLE_BYTES = 2  # one int16


class StoreIndex(Config):
    """The index of a prepared corpus, `waveforms.json`.

    Attributes:
        version: of the layout.
        sample_rate: Hz.
        total: samples of all utterances together.
        rejected: utterances left out.
        upsampled: utterances whose file has a lower rate.
        fingerprint: digest of the utterances that went in and of the size and time of their files.
        lengths: samples of each utterance.
        crc32s: checksum of each utterance's samples.
    """

    version: int
    sample_rate: int
    total: int
    rejected: int
    upsampled: int
    fingerprint: str
    lengths: list[int]
    crc32s: list[int]


class WaveformStore:
    """Random access to the waveforms of a prepared corpus.

    Attributes:
        folder: the prepared corpus.
        utterances: the manifest.
        lengths: (utterances,) samples of each.

    Raises:
        UserError: on opening, when a file is missing or its size is not what the index says.
    """

    folder: Path
    utterances: list[Utterance]
    lengths: Int64[np.ndarray, " utterances"]

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        index = read_index(self.folder)
        if index is None:
            raise UserError(
                f"{folder}: not a prepared corpus (no {INDEX}); run `speechssl prepare` to make or finish it"
            )
        self.lengths = np.array(index.lengths, dtype=np.int64)
        self._crc32s = index.crc32s
        check_sizes(self.folder, index)
        self.utterances = read_manifest(self.folder / MANIFEST)
        if len(self.utterances) != len(self.lengths):
            raise UserError(
                f"{self.folder / MANIFEST}: {len(self.utterances)} utterances, {INDEX} counts {len(self.lengths)}"
            )
        self._ends = np.cumsum(self.lengths)
        self._samples = self._map(index.total)

    def _map(self, total: int) -> np.ndarray:
        if not total:  # an empty file cannot be mapped
            return np.zeros(0, dtype="<i2")
        # A plain array over the same memory: slicing it is several times faster than slicing numpy's subclass.
        return np.memmap(self.folder / WAVEFORMS, dtype="<i2", mode="r").view(np.ndarray)

    def __len__(self) -> int:
        return len(self.lengths)

    def content_ids(self) -> list[str]:
        """A digest of each utterance's samples, whatever its file is called: the same audio has the same digest.

        Returns:
            One for each utterance, in order.
        """
        return [f"{length:08x}{crc32:08x}" for length, crc32 in zip(self.lengths.tolist(), self._crc32s, strict=False)]

    def content_hash(self) -> str:
        """Sixteen hexadecimal digits that change with the samples or their order, from the index alone."""
        return hashlib.sha256(json.dumps([self.lengths.tolist(), self._crc32s]).encode()).hexdigest()[:16]

    def __reduce__(self) -> tuple[type["WaveformStore"], tuple[Path]]:
        return WaveformStore, (self.folder,)  # a worker process opens the files itself instead of copying them

    def read(self, index: int, start: int = 0, stop: int | None = None) -> Int16[np.ndarray, " samples"]:
        """A stretch of one utterance, as a view of the mapped file: nothing is copied or read before it is used.

        Args:
            index: the utterance, from 0.
            start: first sample.
            stop: one past the last sample; None for the end.

        Returns:
            (samples,) int16, read-only; divide by 32768 for float samples in [-1, 1).

        Raises:
            IndexError: no such utterance.
            ValueError: not 0 <= start <= stop <= length.
        """
        if not 0 <= index < len(self.lengths):
            raise IndexError(f"utterance {index} of a corpus with {len(self.lengths)}")
        length = int(self.lengths[index])
        last = length if stop is None else stop
        if not 0 <= start <= last <= length:
            raise ValueError(f"samples {start} to {last} of utterance {index}, which has {length}")
        begin = int(self._ends[index]) - length
        return self._samples[begin + start : begin + last]

    def verify(self) -> None:
        """Reads everything and compares the checksums.

        Raises:
            UserError: names the first utterance whose samples have changed.
        """
        for index, expected in enumerate(self._crc32s):
            if zlib.crc32(self.read(index).data) != expected:
                raise UserError(
                    f"{self.folder / WAVEFORMS}: the samples of utterance {index} "
                    f"({self.utterances[index].audio}) are damaged; remove {INDEX} and prepare the corpus again"
                )


def read_index(folder: Path) -> StoreIndex | None:
    """The index; None when the folder has none."""
    try:
        index = StoreIndex.model_validate_json((folder / INDEX).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError as error:
        raise UserError(f"{folder / INDEX}: not the index of a prepared corpus; prepare it again") from error
    if index.version != VERSION or index.sample_rate != SAMPLE_RATE:
        raise UserError(
            f"{folder / INDEX}: version {index.version} at {index.sample_rate} Hz; "
            f"this program reads version {VERSION} at {SAMPLE_RATE} Hz; prepare the corpus again"
        )
    return index


def check_sizes(folder: Path, index: StoreIndex) -> None:
    """Raises `UserError` when the samples are not there or not as long as the index says."""
    path = folder / WAVEFORMS
    size = path.stat().st_size if path.is_file() else -1
    if size < 0:
        raise UserError(f"{path}: missing; prepare the corpus again")
    if size != index.total * SAMPLE_BYTES:
        raise UserError(f"{path}: {size} bytes, {INDEX} says {index.total * SAMPLE_BYTES}; prepare the corpus again")
    if len(index.lengths) != len(index.crc32s) or sum(index.lengths) != index.total:
        raise UserError(f"{folder / INDEX}: its lengths do not add up; prepare the corpus again")
