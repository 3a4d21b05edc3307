"""Parts of a manifest: speaker-disjoint splits, few-shot and few-minute subsets.

All functions are pure functions of the utterances and the seed: the order of the manifest does not matter, and one
class's draw does not depend on which other classes there are.
"""

import math
import random
import zlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal, TypeVar, get_args

from speechssl.data.utterance import Utterance
from speechssl.data.values import merged

ClassKey = Literal["label", "speaker", "language", "text", "split"]
_CAPITALS_DO_NOT_COUNT = frozenset({"speaker", "language", "split"})
Item = TypeVar("Item")


def split_by_speaker(
    utterances: Sequence[Utterance], fractions: Mapping[str, float], *, seed: int
) -> dict[str, list[Utterance]]:
    """Splits a manifest so that no speaker is in two parts.

    Speakers are taken in seeded order and each goes to the part that is furthest below its share. A part therefore
    exceeds its share by one speaker at most; every part gets at least one. Names that differ only in capitals are one
    speaker.

    Args:
        utterances: the manifest; every utterance needs a speaker.
        fractions: share of each part, in seconds of audio (in utterances when a duration is unknown); sums to 1.
        seed: of the split.

    Returns:
        The utterances of each part in their old order.

    Raises:
        ValueError: utterances without speaker, fractions that are not positive or do not sum to 1, or fewer speakers
            than parts.

    >>> few = [Utterance(audio=f"{i}.wav", duration=1.0, speaker=f"s{i % 4}") for i in range(8)]
    >>> parts = split_by_speaker(few, {"train": 0.75, "test": 0.25}, seed=0)
    >>> {name: len(part) for name, part in parts.items()}
    {'train': 6, 'test': 2}
    """
    if any(not fraction > 0 for fraction in fractions.values()) or abs(sum(fractions.values()) - 1) > 1e-6:
        raise ValueError(f"fractions must be above 0 and sum to 1, got {dict(fractions)}")
    nameless = sum(utterance.speaker is None for utterance in utterances)
    if nameless:
        raise ValueError(f"{nameless} of {len(utterances)} utterances have no speaker; a split by speaker needs one")
    by_count = any(utterance.duration <= 0 for utterance in utterances)
    weights: dict[str, float] = defaultdict(float)
    speakers = merged(utterance.speaker for utterance in utterances)
    for utterance, speaker in zip(utterances, speakers, strict=True):
        weights[str(speaker)] += 1.0 if by_count else utterance.duration
    if len(weights) < len(fractions):
        raise ValueError(f"{len(weights)} speakers cannot fill {len(fractions)} parts")
    part_of = _assign(weights, fractions, seed)
    return {
        name: [each for each, speaker in zip(utterances, speakers, strict=True) if part_of[str(speaker)] == name]
        for name in fractions
    }


def _assign(weights: Mapping[str, float], fractions: Mapping[str, float], seed: int) -> dict[str, str]:
    """A part for each speaker."""
    total = math.fsum(weights.values())
    lacking = {name: fraction * total for name, fraction in fractions.items()}
    part_of: dict[str, str] = {}
    for speaker in _shuffled(sorted(weights), seed, "speakers"):
        name = max(lacking, key=lacking.__getitem__)
        part_of[speaker] = name
        lacking[name] -= weights[speaker]
    for name in fractions:  # a share below one speaker may still be empty: it gets the lightest that can be spared
        if name not in part_of.values():
            sizes = Counter(part_of.values())
            spare = [speaker for speaker in part_of if sizes[part_of[speaker]] > 1]
            part_of[min(spare, key=lambda speaker: (weights[speaker], speaker))] = name
    return part_of


def k_shot(utterances: Sequence[Utterance], shots: int, *, seed: int, key: ClassKey = "label") -> list[Utterance]:
    """Draws the same number of utterances of each class. With one seed, fewer shots are a subset of more.

    Args:
        utterances: the manifest; those without a class are left out.
        shots: utterances per class.
        seed: another seed is another draw.
        key: the field that holds the class.

    Returns:
        `shots` utterances of each class, in their old order.

    Raises:
        ValueError: no utterance has a class, or a class has too few (named).

    >>> few = [Utterance(audio=f"{i}.wav", duration=1.0, label="ab"[i % 2]) for i in range(10)]
    >>> [utterance.label for utterance in k_shot(few, 2, seed=0)].count("a")
    2
    """
    if shots < 1:
        raise ValueError(f"shots must be at least 1, got {shots}")
    if key not in get_args(ClassKey):
        raise ValueError(f"key must be one of {', '.join(get_args(ClassKey))}; got {key!r}")
    classes: dict[str, list[int]] = defaultdict(list)
    values = [getattr(utterance, key) for utterance in utterances]
    for index, value in enumerate(merged(values) if key in _CAPITALS_DO_NOT_COUNT else values):
        if value is not None:
            classes[value].append(index)
    if not classes:
        raise ValueError(f"no utterance has a {key}")
    few = {name: len(members) for name, members in sorted(classes.items()) if len(members) < shots}
    if few:
        listed = ", ".join(f"{name!r} has {count}" for name, count in few.items())
        raise ValueError(f"{shots} shots asked for, but {key} {listed}")
    chosen: set[int] = set()
    for name, members in classes.items():
        members.sort(key=lambda index: _identity(utterances[index]))
        chosen.update(_shuffled(members, seed, name)[:shots])
    return [utterances[index] for index in sorted(chosen)]


def minutes_subset(utterances: Sequence[Utterance], minutes: float, *, seed: int) -> list[Utterance]:
    """Draws utterances of a number of minutes at most. With one seed, fewer minutes are a subset of more.

    The draw stops before the first utterance that would not fit, so it falls short by less than one utterance.

    Args:
        utterances: the manifest, durations known.
        minutes: total to draw.
        seed: another seed is another draw.

    Returns:
        The drawn utterances in their old order.

    Raises:
        ValueError: the manifest holds less, or a duration is unknown.

    >>> few = [Utterance(audio=f"{i}.wav", duration=30.0) for i in range(10)]
    >>> len(minutes_subset(few, 2.0, seed=0))
    4
    """
    if not minutes > 0:
        raise ValueError(f"minutes must be above 0, got {minutes:g}")
    unknown = sum(utterance.duration <= 0 for utterance in utterances)
    if unknown:
        raise ValueError(f"{unknown} of {len(utterances)} utterances have no duration")
    total = math.fsum(utterance.duration for utterance in utterances)
    wanted = minutes * 60
    if total < wanted - 1e-6:
        raise ValueError(f"{minutes:g} minutes asked for, the manifest holds {total / 60:.2f}")
    order = sorted(range(len(utterances)), key=lambda index: _identity(utterances[index]))
    chosen: list[int] = []
    seconds = 0.0
    for index in _shuffled(order, seed, "minutes"):
        seconds += utterances[index].duration
        if seconds > wanted + 1e-6:
            break
        chosen.append(index)
    return [utterances[index] for index in sorted(chosen)]


def _identity(utterance: Utterance) -> tuple[str, float]:
    return (utterance.audio, utterance.offset)


def _shuffled(items: Sequence[Item], seed: int, salt: str) -> list[Item]:
    """A seeded order; the salt keeps one class's order independent of which other classes there are."""
    shuffled = list(items)
    random.Random(f"{seed}/{zlib.crc32(salt.encode())}").shuffle(shuffled)
    return shuffled
