"""The index of a prepared corpus: which files have its samples, and where each utterance is in them."""

import hashlib
import json
from collections.abc import Iterable
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Int64
from pydantic import BaseModel, Field, ValidationError

from speechssl.audio import SAMPLE_RATE
from speechssl.config import Config, UserError
from speechssl.data.locations import Location, read_location, size_of
from speechssl.data.utterance import Utterance

VERSION = 2
MANIFEST, REJECTS, WAVEFORMS, INDEX = "manifest.jsonl", "rejects.jsonl", "waveforms.i16", "waveforms.json"
SHARDS = "shards"
PART = 40  # samples, 2.5 ms, less than the input of the first convolution: each has a shift of its own in one form
Form = Literal["int16", "int16+shifts", "float32"]
"""How the samples of an utterance are stored; see `speechssl.data.encoded`."""
ShardName = Annotated[str, Field(pattern=r"^shards/\d+-of-\d+/waveforms\.i16$")]


class PartIndex(Config):
    """The share of a corpus that one shard has.

    Attributes:
        number: of the part, from 1.
        count: parts of the corpus.
        listing: digest of all utterances of the input, those of other parts included.
        total: their number.
        positions: places in the input of the utterances of this part, the rejected ones included.
        rejected: numbers among these that were left out.
        keys: digest of each of these utterances and of the state of its file.
    """

    number: int
    count: int
    listing: str
    total: int
    positions: list[int]
    rejected: list[int]
    keys: list[str]


class StoreIndex(Config):
    """The index of a prepared corpus, `waveforms.json`.

    Attributes:
        version: of the layout.
        sample_rate: Hz.
        total: samples of all utterances together.
        rejected: utterances left out.
        upsampled: utterances whose file has a lower rate.
        notes: doubtful properties of an utterance, one line, by its number.
        fingerprint: digest of the input utterances and of the states of their files.
        lengths: samples of each utterance.
        gains: factor of the stored samples of each utterance, a power of two; int16 are parts of 32768.
        forms: how the samples of each utterance are stored.
        crc32s: checksum of each utterance's stored samples.
        digests: BLAKE2b of each utterance's stored samples, 16 hexadecimal digits.
        sources: `sources_digest` of the manifest; empty in corpora of an earlier version.
        shards: files of samples of a corpus in shards, relative to its folder; None: one file, `WAVEFORMS`.
        places: the shard of each utterance, from 0. Within a shard, utterances have the order of the manifest.
        part: in the folder of a shard, its share of the corpus.
    """

    version: int
    sample_rate: int
    total: int
    rejected: int
    upsampled: int
    fingerprint: str
    notes: dict[int, str]
    lengths: list[int]
    gains: list[float]
    forms: list[Form]
    crc32s: list[int]
    digests: list[str]
    sources: str = ""
    shards: list[ShardName] | None = None
    places: list[int] | None = None
    part: PartIndex | None = None

    @property
    def files(self) -> list[str]:
        """The files of samples, relative to the folder."""
        return [WAVEFORMS] if self.shards is None else list(self.shards)

    def sizes(self) -> Int64[np.ndarray, " utterances"]:
        """Stored bytes of each utterance, an even number."""
        sizes = [stored_bytes(form, length) for form, length in zip(self.forms, self.lengths, strict=True)]
        return np.asarray(sizes, dtype=np.int64)

    def file_of(self) -> Int64[np.ndarray, " utterances"]:
        """The number of the file of each utterance."""
        return np.asarray(self.places if self.places is not None else [0] * len(self.lengths), dtype=np.int64)

    def file_sizes(self) -> list[int]:
        """Bytes of each file of samples."""
        sizes = np.zeros(len(self.files), dtype=np.int64)
        np.add.at(sizes, self.file_of(), self.sizes())
        return sizes.tolist()

    def begins(self) -> Int64[np.ndarray, " utterances"]:
        """First byte of each utterance in its file."""
        sizes, files = self.sizes(), self.file_of()
        order = np.argsort(files, kind="stable")
        before = np.cumsum(sizes[order]) - sizes[order]
        starts = np.cumsum([0, *self.file_sizes()])[files[order]]
        begins = np.zeros_like(sizes)
        begins[order] = before - starts
        return begins

    def content_hash(self) -> str:
        """Sixteen hexadecimal digits that change with the samples or their order, not with the files they are in."""
        content = [self.lengths, self.crc32s, self.gains]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def json_line(self) -> str:
        """The content of the index file."""
        return self.model_dump_json(exclude_none=True)


class _Layout(BaseModel):
    """Fields that an index of any version has."""

    version: int
    sample_rate: int


def stored_bytes(form: Form, samples: int) -> int:
    """Bytes of a number of samples in the file of samples.

    >>> [stored_bytes(form, 1000) for form in ("int16", "int16+shifts", "float32")]
    [2000, 2026, 4000]
    """
    shifts = -(-samples // PART)
    return {"int16": 2 * samples, "int16+shifts": 2 * samples + shifts + shifts % 2, "float32": 4 * samples}[form]


def read_index(folder: Location) -> StoreIndex | None:
    """The index; None when the folder has none."""
    try:
        content = read_location(folder / INDEX)
        index = _Layout.model_validate_json(content)
        if index.version == VERSION and index.sample_rate == SAMPLE_RATE:
            return StoreIndex.model_validate_json(content)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError as error:
        raise UserError(f"{folder / INDEX}: not the index of a prepared corpus; prepare it again") from error
    raise UserError(
        f"{folder / INDEX}: version {index.version} at {index.sample_rate} Hz; "
        f"this program reads version {VERSION} at {SAMPLE_RATE} Hz; prepare the corpus again"
    )


def has_index(folder: Location) -> bool:
    """Whether a folder is a prepared corpus."""
    return size_of(folder / INDEX) != -1


def sources_digest(utterances: Iterable[Utterance]) -> str:
    """Sixteen hexadecimal digits of the sources of the utterances, in order: names of files without folders, offsets.

    >>> one, other = (Utterance(audio=f"/x/{name}.wav", duration=1.0) for name in "ab")
    >>> sources_digest([one, other]) == sources_digest([other, one])
    False
    """
    digest = hashlib.blake2b(digest_size=8)
    for each in utterances:
        digest.update(f"{each.audio.rpartition('/')[2]}\0{each.offset!r}\0".encode("utf-8", "backslashreplace"))
    return digest.hexdigest()


def check_sizes(folder: Location, index: StoreIndex) -> None:
    """Raises `UserError` when samples are missing or the length of a file is not that of the index."""
    columns = [index.gains, index.forms, index.crc32s, index.digests]
    whole = (index.shards is None) == (index.places is None)
    if index.places is not None:
        columns.append(index.places)
        whole = whole and all(0 <= place < len(index.files) for place in index.places)
    whole = whole and all(len(column) == len(index.lengths) for column in columns)
    if not whole or sum(index.lengths) != index.total:
        raise UserError(f"{folder / INDEX}: its lengths do not add up; prepare the corpus again")
    for name, expected in zip(index.files, index.file_sizes(), strict=True):
        size = size_of(folder / name)
        if size == -1:
            raise UserError(f"{folder / name}: missing; prepare the corpus again")
        if size is not None and size != expected:
            raise UserError(f"{folder / name}: {size} bytes, {INDEX} says {expected}; prepare the corpus again")
