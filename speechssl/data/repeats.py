"""Utterances that repeat the stretch of an earlier one, with open and rounded ends resolved.

A stretch to the end of its file may be written with and without its end, and an end may be rounded by up to 10 ms
beyond the file. Such stretches are equal when they are decoded to the same samples, so their headers are read. Files
are opened for this only where two stretches of one start may be one: where one of them is open, or where their ends
are 10 ms apart or less.
"""

import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager

from speechssl.audio import AudioError, open_stretch, seconds_to_samples
from speechssl.data.members import local_file
from speechssl.data.stretches import repeated, samples_of
from speechssl.data.utterance import Utterance

Place = tuple[str, int | float, int | float]
Opened = Callable[[str], AbstractContextManager[str]]
_NEAR = seconds_to_samples(0.01) + 8  # samples: largest rounding of an end, and one sample of each at 4 kHz


class Repeats:
    """Repeated stretches of a source that is read several times: `add` every utterance, `resolve`, then `faults`.

    Only hashes of the starts are kept for all utterances: a source may hold millions.

    Args:
        opened: gives a local file for the `audio` of an utterance while a block runs.

    >>> few = [Utterance(audio="a.wav", duration=1.0, label=label) for label in ("x", "x", "y")]
    >>> repeats = Repeats()
    >>> for each in few:
    ...     repeats.add(each)
    >>> repeats.resolve(few)
    >>> [fault.partition(":")[0] for _, fault in repeats.faults(few)]
    ['', 'a duplicate', 'contradicts an earlier utterance of the same stretch of the same file, which is used']
    """

    def __init__(self, opened: Opened = local_file):
        self._opened = opened
        self._starts: set[int] = set()
        self._shared: set[int] = set()
        self._resolved: dict[Place, Place] = {}

    def __bool__(self) -> bool:
        """Whether two utterances start at one sample of one file."""
        return bool(self._shared)

    def add(self, utterance: Utterance) -> None:
        """One utterance of the first reading."""
        start = hash(_place(utterance)[:2])
        if start in self._starts:
            self._shared.add(start)
        self._starts.add(start)

    def resolve(self, utterances: Iterable[Utterance]) -> None:
        """Reads the headers that are needed; `utterances` are those of the whole source again."""
        self._starts.clear()
        groups: dict[tuple[str, int | float], dict[int | float, Utterance]] = {}
        for each in utterances if self._shared else ():
            file, first, length = _place(each)
            if hash((file, first)) in self._shared:
                groups.setdefault((file, first), {}).setdefault(length, each)
        for lengths in groups.values():
            if _may_be_one(lengths):
                for each in lengths.values():
                    self._resolved[_place(each)] = self._decoded_as(each)

    def faults(self, utterances: Iterable[Utterance]) -> Iterator[tuple[Utterance, str]]:
        """Each utterance with the reason why it is left out; empty where no earlier one has its stretch."""
        used: dict[Place, Utterance] = {}
        for each in utterances:
            fault = ""
            if self._shared and hash((place := _place(each))[:2]) in self._shared:
                first = used.setdefault(self._resolved.get(place, place), each)
                fault = "" if first is each else repeated(each, first)
            yield each, fault

    def _decoded_as(self, utterance: Utterance) -> Place:
        """The stretch with its number of decoded samples; unchanged where it cannot be opened."""
        place = _place(utterance)
        if not math.isfinite(utterance.offset + utterance.duration):
            return place
        try:
            with (
                self._opened(utterance.audio) as path,
                open_stretch(path, utterance.offset, duration=utterance.duration or None) as stretch,
            ):
                return *place[:2], stretch.num_samples
        except (AudioError, OSError, ValueError):  # decoding gives the reason
            return place


def _may_be_one(lengths: Iterable[int | float]) -> bool:
    """Whether two of some lengths of one start may be the same samples; 0 is an open end."""
    ordered = sorted(lengths)
    if len(ordered) < 2 or ordered[0] <= 0:
        return len(ordered) > 1
    return any(later - earlier <= _NEAR for earlier, later in itertools.pairwise(ordered))


def _place(each: Utterance) -> Place:
    """File, first sample and number of samples; seconds unchanged where no file can have them."""
    if math.isfinite(each.offset + each.duration):
        return os.path.normpath(each.audio), *samples_of(each.offset, each.duration)
    return os.path.normpath(each.audio), each.offset, each.duration
