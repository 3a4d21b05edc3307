"""Properties of the utterances of a corpus: names that are equal on every machine, sessions, synthetic speech."""

import os
from collections.abc import Sequence
from pathlib import Path

from speechssl.data.store import WaveformStore
from speechssl.data.stretches import exact_seconds, identifiers
from speechssl.data.utterance import Utterance
from speechssl.data.values import composed


def utterance_ids(utterances: Sequence[Utterance]) -> list[str]:
    """One name per utterance: its file relative to the common folder of all files, and its start if not zero.

    Where several stretches of a file start together, their lengths are in their names, too.

    Args:
        utterances: of one manifest; no two may be the same stretch of one file.

    >>> utterance_ids([Utterance(audio="/a/b/c.wav", duration=1), Utterance(audio="/a/d.wav", offset=2.5, duration=1)])
    ['b/c.wav', 'd.wav@2.5']
    """
    if not utterances:
        return []
    top = os.path.commonpath([str(Path(item.audio).parent) for item in utterances])
    files = [composed(Path(os.path.relpath(item.audio, top)).as_posix()) for item in utterances]
    return identifiers(utterances, files)


def place_of(utterance: Utterance) -> str:
    """File and offset, exact to the sample: two utterances of one key share audio, for any length.

    >>> place_of(Utterance(audio="/a/b.wav", offset=2.5, duration=1.0))
    '/a/b.wav@2.5'
    """
    return f"{composed(utterance.audio)}@{exact_seconds(utterance.offset)}"


def is_synthetic(store: WaveformStore) -> bool:
    """Whether some of the speech is synthetic."""
    return any(bool(item.extras.get("synthetic")) for item in store.utterances)


def sessions_of(store: WaveformStore) -> list[str | None] | None:
    """The recording session of each utterance (`extras.session`); None where the corpus has none."""
    found = [item.extras.get("session") for item in store.utterances]
    known = [each is not None for each in found]
    return [None if each is None else str(each) for each in found] if any(known) else None
