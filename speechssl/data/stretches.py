"""Stretches of audio files: equality, and how they are written; exact to the sample at 16 kHz.

A stretch is a file, its first sample and its number of samples (0: to the end of the file). Duplicates, identifiers and
the keys by which work is resumed use these three.
"""

import os
from collections import Counter
from collections.abc import Iterable, Sequence

from speechssl.audio import seconds_to_samples
from speechssl.data.utterance import Utterance
from speechssl.data.values import shown

Stretch = tuple[str, int, int]
DUPLICATE = "a duplicate: the same stretch of the same file as an earlier utterance"
CONTRADICTION = "contradicts an earlier utterance of the same stretch of the same file, which is used"
_SHOWN = 3  # copies in a note
_COMPARED = ("label", "text", "speaker", "language", "split")


def repeated(utterance: Utterance, earlier: Utterance) -> str:
    """Why an utterance is left out whose stretch was there before: a duplicate, or one with other values.

    >>> repeated(Utterance(audio="a.wav", duration=1.0, label="b"), Utterance(audio="a.wav", duration=1.0, label="a"))
    "contradicts an earlier utterance of the same stretch of the same file, which is used: label 'b', there 'a'"
    """
    words = difference(utterance, earlier)
    return f"{CONTRADICTION}: {words}" if words else DUPLICATE


def difference(utterance: Utterance, earlier: Utterance) -> str:
    """The values in which two utterances of one stretch differ, in words; empty where they do not."""
    values = [(name, getattr(utterance, name), getattr(earlier, name)) for name in _COMPARED]
    return "; ".join(f"{name} {_value(own)}, there {_value(other)}" for name, own, other in values if own != other)


def contradictions_note(reasons: Iterable[str]) -> str | None:
    """Message with the number of left-out utterances that contradict an earlier one; None where none does.

    Args:
        reasons: of all that are left out.

    >>> contradictions_note([DUPLICATE, f"{CONTRADICTION}: label 'b', there 'a'"])
    "1 clip left out contradicts an earlier one of its stretch; the first: label 'b', there 'a'"
    """
    found = [reason for reason in reasons if reason.startswith(CONTRADICTION)]
    if not found:
        return None
    words = "1 clip left out contradicts an earlier one of its stretch"
    if len(found) > 1:
        words = f"{len(found)} clips left out contradict earlier ones of their stretches"
    return f"{words}; the first: {found[0].removeprefix(f'{CONTRADICTION}: ')}"


def copies_that_differ(utterances: Sequence[Utterance], contents: Sequence[str]) -> str | None:
    """Message about recordings that occur under several names, with other values; None where there are none.

    Args:
        utterances: of one corpus.
        contents: a digest of the samples of each.

    >>> few = [Utterance(audio=f"{name}.wav", duration=1, split=split) for name, split in zip("abc", ("x", "y", "x"))]
    >>> copies_that_differ(few, ["1", "1", "1"])
    "1 recording occurs more than once with other values: b.wav is a.wav (split 'y', there 'x')"
    """
    first: dict[str, Utterance] = {}
    found: dict[str, str] = {}
    for each, content in zip(utterances, contents, strict=True):
        other = first.setdefault(content, each)
        if content not in found and (words := difference(each, other)):
            found[content] = (
                f"{each.audio}{start_mark(each.offset)} is {other.audio}{start_mark(other.offset)} ({words})"
            )
    if not found:
        return None
    count = f"{len(found)} recordings occur" if len(found) > 1 else "1 recording occurs"
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return f"{count} more than once with other values: {', '.join(list(found.values())[:_SHOWN])}{more}"


def _value(value: str | None) -> str:
    return "missing" if value is None else shown(value)


def stretch_of(utterance: Utterance) -> Stretch:
    """File, first sample and number of samples.

    >>> stretch_of(Utterance(audio="/a/../b.wav", offset=0.5, duration=1.0))
    ('/b.wav', 8000, 16000)
    """
    return os.path.normpath(utterance.audio), *samples_of(utterance.offset, utterance.duration)


def samples_of(offset: float, duration: float) -> tuple[int, int]:
    """First sample and number of samples at 16 kHz.

    >>> samples_of(10000.12, 1.0) == samples_of(10000.14, 1.0)
    False
    """
    return seconds_to_samples(offset), seconds_to_samples(duration)


def exact_seconds(seconds: float) -> str:
    """A time in the fewest digits that identify its sample, six or more.

    >>> [exact_seconds(each) for each in (0.0, 2.5, 10000.12, 1 / 3)]
    ['0', '2.5', '10000.12', '0.333333']
    """
    sample = seconds_to_samples(seconds)
    shortest = (f"{seconds:.{digits}g}" for digits in range(6, 17))
    return next((text for text in shortest if seconds_to_samples(float(text)) == sample), repr(seconds))


def start_mark(offset: float) -> str:
    """End of an identifier: the start of the stretch; empty at the start of the file.

    >>> start_mark(0.0), start_mark(12.5)
    ('', '@12.5')
    """
    return f"@{exact_seconds(offset)}" if seconds_to_samples(offset) else ""


def identifiers(utterances: Sequence[Utterance], files: Sequence[str]) -> list[str]:
    """One identifier per utterance: its file, where it starts, and its length where others start there too.

    Args:
        utterances: of one corpus.
        files: the name of the file of each.

    >>> few = [Utterance(audio="m.wav", offset=o, duration=d) for o, d in ((0, 1), (0, 3), (2, 1))]
    >>> identifiers(few, ["m"] * 3)
    ['m@0+1', 'm@0+3', 'm@2']
    """
    short = [file + start_mark(each.offset) for each, file in zip(utterances, files, strict=True)]
    counts = Counter(short)
    return [
        name if counts[name] == 1 or not each.duration else long_identifier(each, file)
        for name, each, file in zip(short, utterances, files, strict=True)
    ]


def long_identifier(utterance: Utterance, file: str) -> str:
    """File, start and length, independent of the rest of the corpus."""
    return f"{file}@{exact_seconds(utterance.offset)}+{exact_seconds(utterance.duration)}"
