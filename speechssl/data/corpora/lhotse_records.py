"""Records of Lhotse's manifests: recordings, supervisions and cuts, as stretches of files."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechssl.config import UserError
from speechssl.data.corpora.kaldi_tables import base_folder, read_command
from speechssl.data.corpora.lhotse_fields import Line, fields_of, of_part
from speechssl.data.places import local_path

_ROUNDING = 0.011  # s that a supervision may reach over its cut: times are often rounded to hundredths
_EMPTY = "the stretch has no length"  # 0 would mean: to the end of the file


@dataclass(frozen=True)
class Stretch:
    """A stretch of a file with its fields.

    Attributes:
        audio: the file.
        recorded: duration of the file by the manifest, s.
        start: s.
        duration: s.
        fields: its fields, by name.
        names: those of its cut, supervision or recording.
        line: of the manifest.
    """

    audio: str
    recorded: float
    start: float
    duration: float
    fields: Mapping[str, Any]
    names: Mapping[str, str]
    line: Line


class Left:
    """Entries of a manifest that were left out, by reason."""

    def __init__(self, manifest: Path):
        self.manifest = manifest
        self.base: Path | None = None  # found with the first relative path
        self._reasons: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def out(self, reason: str, name: str) -> None:
        """Counts one entry."""
        self._reasons[reason] += 1
        self._first.setdefault(reason, name)

    def lines(self) -> list[str]:
        """One line per reason."""
        return [
            f"{self.manifest}: left out: {count} ({self._first[reason]}{', …' if count > 1 else ''}): {reason}"
            for reason, count in self._reasons.most_common()
        ]


@dataclass(frozen=True)
class Recording:
    """A recording: its files with their channels, or why it cannot be read."""

    name: str
    duration: float
    files: tuple[tuple[str, frozenset[int]], ...]
    reason: str
    fields: Mapping[str, Any]
    line: Line

    def file(self, channels: frozenset[int]) -> tuple[str, str]:
        """The file with exactly these channels, or the reason why there is none."""
        if self.reason:
            return "", self.reason
        found = next((path for path, there in self.files if there == channels), None)
        if found is not None:
            return found, ""
        return "", "one channel of a file with several cannot be read; write each channel to a file of its own"

    def whole(self, left: Left) -> Iterator[Stretch]:
        """All of it, unlabelled; several files of it would be the same moment."""
        if self.reason or len(self.files) > 1:
            left.out(self.reason or "several files of one recording; make cuts of single channels", self.name)
        else:
            names = {"recording": self.name}
            for path, _ in self.files:
                yield Stretch(path, self.duration, 0.0, self.duration, self.fields, names, self.line)


def of_recording(values: Mapping[str, Any], where: Line, left: Left, base: Path | None) -> Recording:
    """Read a recording.

    Raises:
        UserError: a field is missing or of another kind; names file and line.
    """
    name, duration = _text(values, "id", where), _number(values, "duration", where)
    files: list[tuple[str, frozenset[int]]] = []
    reason = "changed by Lhotse as it is loaded (speed, tempo, volume …); store the changed audio" * bool(
        values.get("transforms")
    )
    sources = values.get("sources")
    if not isinstance(sources, list) or not sources or not all(isinstance(each, dict) for each in sources):
        raise UserError(f"{where}: sources: given {sources!r}, allowed: a list of objects")
    for source in sources:
        kind, path = source.get("type"), str(source.get("source"))
        if kind == "command":
            path, start, problem = read_command(
                path.strip().removesuffix("|").strip(), named_in="the recording's source, with the type 'file'"
            )
            reason = reason or problem or ("a part of an archive" if start else "")
        elif kind != "file":
            reason = reason or f"audio of the type {kind!r} cannot be read; save it as files"
        files.append((_resolved(path, left, base) if not reason else path, frozenset(source.get("channels") or (0,))))
    return Recording(name, duration, tuple(files), reason, fields_of(values, where), where)


def of_supervision(
    values: Mapping[str, Any], where: Line, recordings: Mapping[str, Recording], left: Left
) -> Iterator[Stretch]:
    """The stretch of a supervision of one of the recordings; none where it cannot be read."""
    name = str(values.get("id"))
    recording = recordings.get(str(values.get("recording_id")))
    if recording is None:
        left.out("their recording is not in the manifest of recordings", name)
        return
    path, reason = recording.file(_channels(values, where))
    if reason:
        left.out(reason, name)
        return
    start, duration = _number(values, "start", where), _number(values, "duration", where)
    if not duration:
        left.out(_EMPTY, name)
        return
    whole = duration >= recording.duration - _ROUNDING
    fields = of_part(fields_of(values, where), recording.fields, where, whole=whole)
    yield Stretch(path, recording.duration, start, duration, fields, {"supervision": name}, where)


def of_cut(values: Mapping[str, Any], where: Line, left: Left, base: Path | None) -> Iterator[Stretch]:
    """The stretches of a cut: one per supervision, the cut itself where it has none.

    Raises:
        UserError: a field is missing or of another kind; names file and line.
    """
    name, kind = str(values.get("id")), values.get("type", "MonoCut")
    if kind not in ("MonoCut", "MultiCut", "Cut"):
        left.out(f"a {kind}, which Lhotse computes as it is loaded; store the audio: cuts.save_audios(…)", name)
        return
    recording = values.get("recording")
    if not isinstance(recording, dict):
        left.out("features without a recording: no waveform can be made of them", name)
        return
    found = of_recording(recording, where, left, base)
    start, duration = _number(values, "start", where), _number(values, "duration", where)
    outer = of_part(fields_of(values, where), found.fields, where, whole=duration >= found.duration - _ROUNDING)
    supervisions = values.get("supervisions") or []
    if not isinstance(supervisions, list) or not all(isinstance(each, dict) for each in supervisions):
        raise UserError(f"{where}: supervisions: given {type(supervisions).__name__}, allowed: a list of objects")
    if not supervisions:
        path, reason = found.file(_channels(values, where))
        if reason or not duration:
            left.out(reason or _EMPTY, name)
        else:
            yield Stretch(path, found.duration, start, duration, outer, {"cut": name}, where)
    for each in supervisions:
        own = each if len(supervisions) > 1 or "channel" in each else {**each, "channel": values.get("channel", 0)}
        path, reason = found.file(_channels(own, where))
        first, length = _number(each, "start", where), _number(each, "duration", where)
        if first < -_ROUNDING or first + length > duration + _ROUNDING:
            reason = reason or "the supervision reaches beyond its cut, so the cut holds a part of its text"
        if reason:
            left.out(reason, name)
            continue
        first, length = max(first, 0.0), min(length, duration - max(first, 0.0))
        if length <= 0:
            left.out(_EMPTY, name)
            continue
        fields = of_part(fields_of(each, where), outer, where, whole=length >= duration - _ROUNDING)
        names = {"cut": name, "supervision": str(each.get("id"))}
        yield Stretch(path, found.duration, round(start + first, 9), round(length, 9), fields, names, where)


def _channels(values: Mapping[str, Any], where: Line) -> frozenset[int]:
    found = values.get("channel", 0)
    channels = found if isinstance(found, list) else [found]
    if not channels or not all(isinstance(each, int) for each in channels):
        raise UserError(f"{where}: channel: given {found!r}, allowed: a number or a list of numbers")
    return frozenset(channels)


def _resolved(path: str, left: Left, base: Path | None) -> str:
    path = local_path(path)
    if Path(path).is_absolute():
        return path
    if left.base is None:
        left.base = base_folder(path, left.manifest, base)
    return str(left.base / path)


def _text(values: Mapping[str, Any], name: str, where: Line) -> str:
    found = values.get(name)
    if not isinstance(found, str) or not found:
        raise UserError(f"{where}: {name}: given {found!r}, allowed: a text")
    return found


def _number(values: Mapping[str, Any], name: str, where: Line) -> float:
    found = values.get(name)
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        raise UserError(f"{where}: {name}: given {found!r}, allowed: seconds")
    return float(found)
