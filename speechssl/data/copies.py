"""Utterances of a corpus that repeat the audio of another one, and by what the audio of two utterances is compared."""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence

from speechssl.audio import samples_to_seconds
from speechssl.data.marks import Values, enough, without_common
from speechssl.data.members import file_status, find_member
from speechssl.data.store import WaveformStore

MIN_OVERLAP = 0.1
"""Seconds that two stretches of a file share; less is the rounding of neighbours."""


def copies(store: WaveformStore, *, names: Sequence[str], one_speaker: bool = False) -> dict[int, int]:
    """Utterances that repeat audio of another one, and which that is: the first by name.

    They have the same samples, or are another cut or an overlapping stretch of the same file that is said to be of
    another speaker.

    Args:
        store: the corpus.
        names: of its utterances, so that the order of the manifest makes no difference.
        one_speaker: cuts and overlapping stretches of one speaker are repetitions, too: for divisions that do not keep
            speakers apart.
    """
    ids = store.content_ids()
    own_marks = evidence(store, range(len(store)))
    first: dict[str, int] = {}
    kept: dict[str, list[tuple[float, float, int]]] = {}
    marked: dict[int, list[int]] = {}
    found: dict[int, int] = {}
    for index in sorted(range(len(store)), key=names.__getitem__):
        files, begin, end = stretch(store, index)
        own = own_marks[index].tolist()
        shared = Counter(other for mark in own for other in marked.get(mark, ()))
        again = [
            other
            for file in files
            for start, stop, other in kept.get(file, ())
            if min(end, stop) - max(begin, start) >= MIN_OVERLAP
        ]
        again += [
            other
            for other, count in shared.items()
            if enough(count, min(len(own), len(own_marks[other])), level=store.level)
        ]
        if not one_speaker:
            again = [other for other in again if store.speakers[other] != store.speakers[index]]
        if ids[index] in first:
            found[index] = first[ids[index]]
        elif again:
            found[index] = again[0]
        else:
            first[ids[index]] = index
            for file in files:
                kept.setdefault(file, []).append((begin, end, index))
            for mark in own:
                marked.setdefault(mark, []).append(index)
    return found


def copies_note(store: WaveformStore, found: Mapping[int, int]) -> str:
    """A sentence about copies that are left out."""
    index, kept = next(iter(found.items()))
    differing = {
        "speaker": sum(store.speakers[a] != store.speakers[b] for a, b in found.items()),
        "label": sum(store.utterances[a].label != store.utterances[b].label for a, b in found.items()),
    }
    others = "".join(f", {count} of them with another {name}" for name, count in differing.items() if count)
    return (
        f"{len(found)} utterances left out: their audio is that of another one{others}, for example "
        f"{store.utterances[index].audio} and {store.utterances[kept].audio}"
    )


def stretch(store: WaveformStore, index: int) -> tuple[list[str], float, float]:
    """What the file of an utterance is known by, and begin and end, s."""
    item = store.utterances[index]
    names = [unicodedata.normalize("NFC", item.audio).encode("utf-8", "surrogateescape")]
    member = find_member(item.audio)
    try:
        status = file_status(item.audio)
    except (OSError, ValueError):  # gone since it was prepared
        pass
    else:
        state = (
            status.st_dev,
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
            "" if member is None else member.name,
        )
        names.append(repr(state).encode("utf-8", "surrogateescape"))
    begin = round(item.offset, 6)
    files = [hashlib.blake2b(name, digest_size=8).hexdigest() for name in names]
    return files, begin, round(begin + samples_to_seconds(int(store.lengths[index])), 6)


def evidence(store: WaveformStore, indices: Sequence[int]) -> list[Values]:
    """The marks of some utterances that are evidence."""
    return without_common(store.marks(indices), [store.utterances[index].audio for index in indices])
