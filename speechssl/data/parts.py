"""A prepared corpus in shards: parts of the input, each packed by a process of its own, and joined without copying.

    OUT/shards/2-of-4/        a prepared corpus: the second of four parts of the input
    OUT/manifest.jsonl, rejects.jsonl, marks.npz, waveforms.json
                              the whole corpus in the order of the input; waveforms.json names the shards, which have
                              the samples

The part of an utterance is a digest of the name of its file, so that every process divides the input in the same way,
and all stretches of a file are in one part, where duplicates are found. The corpus is equal to that of `pack`: the same
utterances in the same order with the same `content_hash`.

Each part is killed and resumed on its own. The process that finishes the last one joins them. Nothing is locked for
that: what is written depends on the parts alone, and when one is prepared again meanwhile, the corpus gets no index.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from speechssl.config import UserError
from speechssl.data.joining import index_of, join, marks_of, unfinished
from speechssl.data.locations import Address, location_of
from speechssl.data.shares import Share, part_of
from speechssl.data.store_index import (
    SHARDS,
    VERSION,
    PartIndex,
)
from speechssl.data.utterance import Utterance
from speechssl.data.waveforms import PackReport, pack, pack_into, with_absolute_paths


def pack_part(
    utterances: Iterable[Utterance],
    out: Path,
    share: Share,
    *,
    workers: int = 0,
    progress: Callable[[int, float], None] | None = None,
) -> PackReport:
    """Packs one part of a corpus into its shard; see `waveforms.pack`, whose arguments these are.

    Args:
        utterances: of the whole corpus, the same ones in the same order for every part.
        out: the folder of the corpus.
        share: which part.
        workers: decoding threads; 0: one per core.
        progress: called after each utterance of the part.

    Returns:
        The counts of the part.

    Raises:
        UserError: another process is packing this part.
    """
    todo = with_absolute_paths(utterances)
    positions = [place for place, each in enumerate(todo) if part_of(each.audio, share.count) == share.number]
    part = PartIndex(
        number=share.number,
        count=share.count,
        listing=_listing(todo),
        total=len(todo),
        positions=positions,
        rejected=[],
        keys=[],
    )
    folder = share.folder(out)
    report = pack_into([todo[place] for place in positions], folder, workers=workers, progress=progress, part=part)
    marks_of(folder)
    return report


def pack_shards(
    utterances: Iterable[Utterance],
    out: Path,
    count: int,
    *,
    workers: int = 0,
    progress: Callable[[int, float], None] | None = None,
) -> PackReport:
    """Packs a corpus into shards, one after the other, and joins them; parts that are finished are not packed again.

    Args:
        utterances: as in `waveforms.pack`, as are the others.
        out: the folder of the corpus.
        count: shards.
        workers: decoding threads; 0: one per core.
        progress: called after each utterance.

    Returns:
        The counts of the corpus.
    """
    todo, done, seconds, resumed = with_absolute_paths(utterances), 0, 0.0, 0
    for number in range(1, count + 1):

        def told(own: int, length: float, before: int = done, more: float = seconds) -> None:
            if progress is not None:
                progress(before + own, more + length)

        report = pack_part(todo, out, Share(number, count), workers=workers, progress=told)
        done, seconds = done + report.accepted + report.rejected, seconds + report.seconds
        resumed += report.resumed
    return join(out, count, resumed=resumed)


@dataclass(frozen=True)
class Prepared:
    """Result of `prepare_corpus`.

    Attributes:
        report: the counts of what `folder` has.
        folder: the corpus, or the shard of a part where others are left.
        left: parts that have to be prepared before the corpus is joined.
    """

    report: PackReport
    folder: Path
    left: list[str]


def prepare_corpus(
    utterances: Sequence[Utterance],
    out: Path,
    *,
    shards: int | None = None,
    shard: str | None = None,
    workers: int = 0,
    progress: Callable[[int, float], None] | None = None,
) -> Prepared:
    """Prepares a corpus in one file of samples or in shards, or one part of it.

    Args:
        utterances: of the whole corpus.
        out: its folder.
        shards: their number [default: that of the corpus which is there, else one file of samples].
        shard: one part alone, such as "2/4"; where it is the last one that was missing, the parts are joined.
        workers: decoding threads; 0: one per core.
        progress: called after each utterance.

    Raises:
        UserError: as `check_layout`.
    """
    shards = check_layout(out, shards=shards, shard=shard)
    if shard is not None:
        share = Share.parse(shard)
        report = pack_part(utterances, out, share, workers=workers, progress=progress)
        left = unfinished(out, share.count, like=share)
        if left:
            return Prepared(report, share.folder(out), left)
        return Prepared(join(out, share.count, resumed=report.resumed), out, [])
    if shards is None:
        return Prepared(pack(utterances, out, workers=workers, progress=progress), out, [])
    return Prepared(pack_shards(utterances, out, shards, workers=workers, progress=progress), out, [])


def check_layout(out: Path, *, shards: int | None, shard: str | None) -> int | None:
    """Refuses options of `prepare_corpus` that do not go together, before the input is read.

    Returns:
        The number of shards to prepare; None: one file of samples, or the part that `shard` names.

    Raises:
        UserError: `shards` and `shard` together, a part such as 5/4, an address, or parts that are not joined where
            neither is given.
    """
    if isinstance(location_of(out), Address):
        raise UserError(f"{location_of(out)}: a corpus is prepared on a disk; copy its folder there afterwards")
    if shards is not None and shard is not None:
        raise UserError("--shards and --shard: give one of them; --shards N prepares and joins all parts")
    if shard is not None:
        Share.parse(shard)
        return None
    index = index_of(out)
    if shards is None and index is not None and index.shards is not None:
        return len(index.shards)
    if shards is None and (out / SHARDS).exists():
        raise UserError(f"{out}: has parts of a corpus that are not joined; give --shards N, or another --out")
    return shards


def _listing(utterances: Sequence[Utterance]) -> str:
    """Sixteen hexadecimal digits of all fields of all utterances, in order."""
    digest = hashlib.blake2b(digest_size=8)
    for each in utterances:
        digest.update(f"{VERSION} {each!r}\0".encode("utf-8", "backslashreplace"))
    return digest.hexdigest()
