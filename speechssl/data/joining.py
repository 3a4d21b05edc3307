"""Joining the shards of a prepared corpus; see `speechssl.data.parts`."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from speechssl.audio import SAMPLE_RATE
from speechssl.config import UserError
from speechssl.data.manifest import read_manifest, write_lines
from speechssl.data.marks import Values, level_of, up_to
from speechssl.data.marks_file import MARKS, marks_bytes, read_marks
from speechssl.data.shares import Share
from speechssl.data.store import WaveformStore
from speechssl.data.store_index import (
    INDEX,
    MANIFEST,
    REJECTS,
    SHARDS,
    VERSION,
    WAVEFORMS,
    StoreIndex,
    check_sizes,
    read_index,
    sources_digest,
)
from speechssl.data.waveforms import PackReport, report_of
from speechssl.files import flush_folder, one_at_a_time, remove, write_atomic


def unfinished(out: Path, count: int, *, like: Share | None = None) -> list[str]:
    """Parts that have to be prepared before a corpus can be joined, such as "2/4".

    Args:
        out: the folder of the corpus.
        count: parts of the corpus.
        like: a finished part [default: the first one]; those of another list of utterances are unfinished.
    """
    found = {Share(number, count): _part_index(out, Share(number, count)) for number in range(1, count + 1)}
    listings = {share: index.part.listing for share, index in found.items() if index is not None and index.part}
    wanted = next(iter(listings.values()), None) if like is None else listings.get(like)
    return [str(share) for share in found if wanted is None or listings.get(share) != wanted]


def join(out: Path, count: int, *, resumed: int = 0) -> PackReport:
    """Joins the parts of a corpus: writes its manifest, rejects, marks and index, which names the shards.

    Args:
        out: the folder of the corpus.
        count: parts of the corpus.
        resumed: for the report.

    Raises:
        UserError: a part is missing, of another input, or damaged; or it was prepared again meanwhile.
    """
    shares = [Share(number, count) for number in range(1, count + 1)]
    left = unfinished(out, count)
    if left:
        raise UserError(f"{out}: parts {', '.join(left)} are not prepared, or of another input; run --shard {left[0]}")
    with one_at_a_time(out / SHARDS / ".lock"):
        parts = [_whole_part(out, share) for share in shares]
        index, order = _joined(out, shares, parts)
        if not _is_joined(out, index):
            _write(out, shares, index, order)
            if [_part_index(out, share) for share in shares] != parts:
                (out / INDEX).unlink(missing_ok=True)
                raise UserError(f"{out}: a part was prepared again while the parts were joined; run the command again")
        _remove_others(out, shares)
    return report_of(index, read_manifest(out / MANIFEST) if index.notes else [], resumed=resumed)


@dataclass(frozen=True)
class _Order:
    """For each utterance in the order of the input: its shard, and its line in the shard's file."""

    accepted: list[tuple[int, int]]
    rejected: list[tuple[int, int]]


def _joined(out: Path, shares: Sequence[Share], parts: Sequence[StoreIndex]) -> tuple[StoreIndex, _Order]:
    """The index of the corpus, without the digest of its sources."""
    places: list[tuple[int, int, int]] = []  # place in the input, shard, line
    rejects: list[tuple[int, int, int]] = []
    keys: dict[int, str] = {}
    for shard, index in enumerate(parts):
        assert index.part is not None
        keys.update(zip(index.part.positions, index.part.keys, strict=True))
        left_out = set(index.part.rejected)
        for found, wanted in ((places, False), (rejects, True)):
            own = [place for number, place in enumerate(index.part.positions) if (number in left_out) == wanted]
            found += [(place, shard, line) for line, place in enumerate(own)]
        if len(index.part.positions) != len(index.lengths) + len(left_out):
            raise UserError(f"{shares[shard].folder(out) / INDEX}: damaged; remove it and prepare this part again")
    total = parts[0].part.total if parts[0].part is not None else 0
    if sorted(keys) != list(range(total)) or len(places) + len(rejects) != total:
        raise UserError(f"{out / SHARDS}: the parts together are not the whole input; remove it and prepare it again")
    order = _Order([each[1:] for each in sorted(places)], [each[1:] for each in sorted(rejects)])
    notes = {
        number: parts[shard].notes[line]
        for number, (shard, line) in enumerate(order.accepted)
        if line in parts[shard].notes
    }
    index = StoreIndex(
        version=VERSION,
        sample_rate=SAMPLE_RATE,
        total=sum(each.total for each in parts),
        rejected=len(rejects),
        upsampled=sum(each.upsampled for each in parts),
        fingerprint=hashlib.sha256("".join(keys[place] for place in range(total)).encode()).hexdigest(),
        notes=notes,
        lengths=[parts[shard].lengths[line] for shard, line in order.accepted],
        gains=[parts[shard].gains[line] for shard, line in order.accepted],
        forms=[parts[shard].forms[line] for shard, line in order.accepted],
        crc32s=[parts[shard].crc32s[line] for shard, line in order.accepted],
        digests=[parts[shard].digests[line] for shard, line in order.accepted],
        shards=[share.samples for share in shares],
        places=[shard for shard, _ in order.accepted],
    )
    return index, order


def _is_joined(out: Path, wanted: StoreIndex) -> bool:
    """Whether the corpus has this index, apart from the digest of its sources, and all its files."""
    index = index_of(out)
    if index is None or index.model_copy(update={"sources": ""}) != wanted:
        return False
    return all((out / name).is_file() for name in (MANIFEST, REJECTS, MARKS))


def _write(out: Path, shares: Sequence[Share], index: StoreIndex, order: _Order) -> None:
    """Writes the files of the corpus, the index last."""
    (out / INDEX).unlink(missing_ok=True)  # the older corpus is invalid from here on
    _write_lines(out, shares, order.accepted, MANIFEST)
    _write_lines(out, shares, order.rejected, REJECTS)
    level = level_of(index.total)  # at least that of each shard
    found = [marks_of(share.folder(out)) for share in shares]
    marks = [up_to(found[shard][line], level) for shard, line in order.accepted]
    write_atomic(out / MARKS, marks_bytes(marks, index.content_hash(), level=level))
    sources = sources_digest(read_manifest(out / MANIFEST))
    flush_folder(out)  # the names are on disk before the index
    write_lines([index.model_copy(update={"sources": sources}).json_line()], out / INDEX)


def _write_lines(out: Path, shares: Sequence[Share], order: Sequence[tuple[int, int]], name: str) -> None:
    """Writes the lines of the shards' files in the order of the input."""
    lines = [(share.folder(out) / name).read_text(encoding="utf-8").split("\n") for share in shares]
    counts = Counter(shard for shard, _ in order)
    for shard, share in enumerate(shares):
        found, expected = len(lines[shard]) - 1, counts[shard]
        if found != expected:
            path = share.folder(out) / name
            raise UserError(f"{path}: {found} lines, {INDEX} counts {expected}; remove it and prepare this part again")
    write_lines((lines[shard][line] for shard, line in order), out / name)


def marks_of(folder: Path) -> list[Values]:
    """The marks of each utterance of a shard, which are written beside its samples where they are not yet."""
    store = WaveformStore(folder)
    found = read_marks(folder, store.content_hash(), level=store.level)
    if found is None:
        found = store.marks(range(len(store)))
        write_atomic(folder / MARKS, marks_bytes(found, store.content_hash(), level=store.level))
    return found


def _remove_others(out: Path, shares: Sequence[Share]) -> None:
    """Removes what an older corpus has left."""
    (out / WAVEFORMS).unlink(missing_ok=True)
    own = {share.folder(out).name for share in shares}
    for folder in (out / SHARDS).iterdir():
        if folder.is_dir() and folder.name not in own:
            remove(folder)


def _part_index(out: Path, share: Share) -> StoreIndex | None:
    return index_of(share.folder(out))


def index_of(folder: Path) -> StoreIndex | None:
    """The index of a corpus or shard; None where there is none that can be used."""
    try:
        return read_index(folder)
    except UserError:  # damaged, or of an earlier version: prepared again
        return None


def _whole_part(out: Path, share: Share) -> StoreIndex:
    index = _part_index(out, share)
    assert index is not None
    check_sizes(share.folder(out), index)
    return index
