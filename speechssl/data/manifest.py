"""Manifests: one utterance per line of JSON, times in seconds."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from speechssl.audio.neighbours import no_file
from speechssl.config import Config
from speechssl.data.manifest_lines import read_lines
from speechssl.data.members import file_status
from speechssl.data.stretches import Stretch, difference, stretch_of
from speechssl.data.subsets import k_shot, minutes_subset, split_by_speaker
from speechssl.data.utterance import Reject, Utterance
from speechssl.data.values import folded, name_of
from speechssl.files import replacing

__all__ = [
    "ManifestStatistics",
    "Reject",
    "Utterance",
    "filter_manifest",
    "json_line",
    "k_shot",
    "minutes_subset",
    "read_manifest",
    "split_by_speaker",
    "statistics",
    "validate_manifest",
    "write_lines",
    "write_manifest",
]


@dataclass(frozen=True)
class ManifestStatistics:
    """Statistics of a manifest.

    Attributes:
        utterances: number of utterances.
        seconds: total duration, s.
        shortest: shortest duration, s; 0 for an empty manifest.
        longest: longest duration, s; 0 for an empty manifest.
        speakers: number of different speakers.
        transcribed: number of utterances with a text.
        labels: utterances of each label, most frequent first.
        languages: utterances of each language, most frequent first.
        splits: utterances of each split, most frequent first.
    """

    utterances: int
    seconds: float
    shortest: float
    longest: float
    speakers: int
    transcribed: int
    labels: dict[str, int]
    languages: dict[str, int]
    splits: dict[str, int]


def read_manifest(path: str | Path) -> list[Utterance]:
    """The utterances of a manifest, with absolute audio paths.

    Args:
        path: a JSONL file; empty lines are skipped.

    Raises:
        UserError: no such file, or a line that is no utterance (named by its number).

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_manifest([Utterance(audio="a.wav", duration=1.5)], folder + "/m.jsonl")
    ...     [utterance] = read_manifest(folder + "/m.jsonl")
    ...     utterance.audio == folder + "/a.wav", utterance.duration
    (True, 1.5)
    """
    return list(read_lines(path))


def write_manifest(utterances: Iterable[Utterance], path: str | Path) -> None:
    """Writes a manifest completely or not at all. Paths and values are written as they are, empty fields left out.

    Args:
        utterances: to write, in order.
        path: the file to write; its folder is made when missing.
    """
    write_lines((json_line(utterance) for utterance in utterances), Path(path))


def json_line(record: Config) -> str:
    """One record as a line of JSON without the fields that hold their default."""
    return record.model_dump_json(exclude_defaults=True)


def write_lines(lines: Iterable[str], path: Path) -> None:
    """Writes text lines completely or not at all; the folder is made when missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.writelines(f"{line}\n".encode() for line in lines)


def validate_manifest(utterances: Iterable[Utterance], *, check_files: bool = False) -> list[str]:
    """Faults of a manifest, one line each; an empty list where there are none.

    Args:
        utterances: the manifest.
        check_files: check that the audio files exist, too.

    >>> validate_manifest([Utterance(audio="a.wav", duration=-1.0)])
    ['utterance 0 (a.wav): duration must not be negative, got -1']
    """
    problems: list[str] = []
    first: dict[Stretch, tuple[int, Utterance]] = {}
    missing: dict[str, bool] = {}
    for index, utterance in enumerate(utterances):
        name = f"utterance {index} ({utterance.audio})"
        if not utterance.audio:
            problems.append(f"{name}: no audio path")
        for field, value in (("offset", utterance.offset), ("duration", utterance.duration)):
            if not math.isfinite(value):
                problems.append(f"{name}: {field} must be finite, got {value:g}")
            elif value < 0:
                problems.append(f"{name}: {field} must not be negative, got {value:g}")
        if math.isfinite(utterance.offset) and math.isfinite(utterance.duration):
            key = stretch_of(utterance)
            if key in first:
                earlier, one = first[key]
                words = f"the same stretch of the same file as utterance {earlier}"
                other = difference(utterance, one)
                problems.append(f"{name}: {words}, which it contradicts: {other}" if other else f"{name}: {words}")
            first.setdefault(key, (index, utterance))
        if check_files:
            if utterance.audio not in missing:
                missing[utterance.audio] = not _exists(utterance.audio)
            if missing[utterance.audio]:
                problems.append(f"{name}: {no_file(utterance.audio)}")
    return problems


def _exists(location: str) -> bool:
    try:
        file_status(location)
    except (OSError, ValueError):
        return False
    return True


def filter_manifest(
    utterances: Iterable[Utterance],
    *,
    min_duration: float = 0.0,
    max_duration: float = math.inf,
    speakers: Iterable[str] | None = None,
    labels: Iterable[str] | None = None,
    languages: Iterable[str] | None = None,
    splits: Iterable[str] | None = None,
    keep: Callable[[Utterance], bool] | None = None,
) -> list[Utterance]:
    """The utterances that meet every condition, in order.

    Args:
        utterances: the manifest.
        min_duration: shortest duration kept, s.
        max_duration: longest duration kept, s.
        speakers: speakers kept, ignoring capitals; None keeps all.
        labels: labels kept; None keeps all.
        languages: languages kept, in the same way.
        splits: splits kept, in the same way.
        keep: any other condition.

    >>> few = [Utterance(audio="a", duration=1.0), Utterance(audio="b", duration=3.0)]
    >>> [utterance.audio for utterance in filter_manifest(few, min_duration=2.0)]
    ['b']
    """
    wanted = {
        field: None if values is None else frozenset(_compared(field, name_of(value)) for value in values)
        for field, values in (("speaker", speakers), ("label", labels), ("language", languages), ("split", splits))
    }
    return [
        utterance
        for utterance in utterances
        if min_duration <= utterance.duration <= max_duration
        and all(
            values is None or _compared(field, getattr(utterance, field)) in values for field, values in wanted.items()
        )
        and (keep is None or keep(utterance))
    ]


def _compared(field: str, name: str | None) -> str | None:
    """A name in the form that is compared: capitals count in labels only."""
    return name if name is None or field == "label" else folded(name)


def statistics(utterances: Sequence[Utterance]) -> ManifestStatistics:
    """Counts of a manifest.

    >>> statistics([Utterance(audio="a", duration=2.0, label="x")]).labels
    {'x': 1}
    """
    durations = [utterance.duration for utterance in utterances]

    def counts(field: str) -> dict[str, int]:
        values = (getattr(utterance, field) for utterance in utterances)
        found = Counter(value for value in values if value is not None)
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    return ManifestStatistics(
        utterances=len(durations),
        seconds=math.fsum(durations),
        shortest=min(durations, default=0.0),
        longest=max(durations, default=0.0),
        speakers=len(counts("speaker")),
        transcribed=sum(utterance.text is not None for utterance in utterances),
        labels=counts("label"),
        languages=counts("language"),
        splits=counts("split"),
    )
