"""Data folders of Kaldi (and of ESPnet 2 and icefall, which write the same): `wav.scp` and the tables beside it.

Story: any data prepared for Kaldi.
Licence and citation: those of the recordings.

    wav.scp      recording (or utterance) -> its audio                segments    utterance -> recording, start, end (s)
    text         utterance -> transcript                              utt2spk     utterance -> speaker; spk2utt
    utt2lang     utterance -> language                                spk2gender  speaker -> m or f, the extra `gender`
    utt2label, utt2emotion, utt2emo, utt2class -> label (one of them) utt2dur     compared with the audio
    reco2file_and_channel  recording -> file, channel: recordings that are one channel of a file with several are left
                 out and counted, as the mean of all channels is read; so are recordings that share such a file

A root without `wav.scp` whose sub-folders have one (`train`, `dev`, `test`) is read whole; their names are the splits.
A command in `wav.scp` is never run. Those that only decode are replaced by the file that they read (`flac -c -d -s
FILE |`, `sph2pipe -f wav FILE |`, `cat FILE |`); the effect of another command on the audio (sox, ffmpeg, a channel) is
unknown, so its recordings are left out and counted. `waves.ark:123` is read in place where it is a wav file.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from speechssl.config import Config, UserError
from speechssl.data.corpora import CorpusInfo, duration_of
from speechssl.data.corpora.kaldi_channels import TABLE, Channels
from speechssl.data.corpora.kaldi_tables import AudioPlaces, Segment, read_segments, read_speakers, read_table
from speechssl.data.findings import Findings, Found
from speechssl.data.utterance import Utterance
from speechssl.data.values import count_missing

INFO = CorpusInfo(
    name="kaldi",
    story="Any Kaldi data folder: wav.scp with text, utt2spk, segments and the like beside it.",
    licence="that of the recordings",
    citation="",
    source="--root",
    hours=None,
    utterances=None,
    speakers=None,
    synthetic=False,
)

_SCP = "wav.scp"
_LABELS = ("utt2label", "utt2emotion", "utt2emo", "utt2class")
_OF_UTTERANCES = frozenset({"text", "utt2spk", "utt2lang", "utt2dur", *_LABELS})
_READ = frozenset({_SCP, "segments", "spk2gender", "spk2utt", TABLE}) | _OF_UTTERANCES
_TABLES = ("utt*", "spk*", "reco*", "text*", "wav*", "stm", "ctm", "glm")
_APART = 0.1  # s between `utt2dur` and the audio; frame counts of 10 ms are rounded in some recipes


class Settings(Config):
    """Options of a Kaldi data folder.

    Attributes:
        base: the folder that relative paths in `wav.scp` start from (where the recipe was run); empty: the data folder
            or the nearest of its parents where the first path is found.
    """

    base: str = ""


def prepare(root: Path, settings: Settings = Settings()) -> Found:  # noqa: B008 -- settings are frozen
    """The utterances of a data folder, in the order of `segments` or else of `wav.scp`.

    Args:
        root: the data folder, or a folder of data folders.
        settings: see `Settings`.

    Returns:
        An iterator of utterances; its `findings` are complete at its end. Utterances. A file that is missing or
        cannot be read has duration 0.0, so that packing gives the reason.

    Raises:
        UserError: no `wav.scp`, a wrong table, or tables that do not belong together.
    """
    findings = Findings(no_label=f"there is no {', '.join(_LABELS[:-1])} or {_LABELS[-1]} with labels in it")
    return Found(_utterances(Path(root), settings, findings), findings)


def _utterances(root: Path, settings: Settings, findings: Findings) -> Iterator[Utterance]:
    root = Path(root).resolve()
    if (root / _SCP).is_file():
        yield from _data_folder(root, None, settings, findings)
        return
    folders = sorted(path.parent for path in root.glob(f"*/{_SCP}"))
    if not folders:
        features = " (feats.scp holds features, which no waveform can be made of)" if _has(root, "feats.scp") else ""
        raise UserError(f"{root}: no {_SCP} in it or in its sub-folders{features}; give a Kaldi data folder")
    for folder in folders:
        yield from _data_folder(folder, folder.name, settings, findings)


def _has(root: Path, name: str) -> bool:
    return (root / name).is_file() or any(root.glob(f"*/{name}"))


def _data_folder(folder: Path, split: str | None, settings: Settings, findings: Findings) -> Iterator[Utterance]:
    places = AudioPlaces(folder, read_table(folder / _SCP), Path(settings.base) if settings.base else None)
    unsegmented = {name: Segment(name, 0.0, None, None) for name in places.recordings}
    stretches = read_segments(folder / "segments") if (folder / "segments").is_file() else unsegmented
    tables = _tables(folder, stretches, findings)
    channels = Channels(folder, places.found())
    genders = read_table(folder / "spk2gender") if (folder / "spk2gender").is_file() else {}
    gone: dict[str, list[str]] = {}
    apart: list[str] = []
    for name, stretch in stretches.items():
        place, reason = places.find(stretch)
        reason = reason or channels.reason(stretch.recording)
        if place is None or reason:
            gone.setdefault(reason, []).append(name)
            continue
        duration = (
            stretch.duration if stretch.duration is not None else duration_of(place) if not stretch.start else 0.0
        )
        stated = tables["duration"].get(name)
        if stated and duration and abs(float(stated) - duration) > _APART:
            apart.append(name)
        speaker = tables["speaker"].get(name) or None
        for field in ("speaker", "text", "label", "language"):
            count_missing(tables[field].get(name), findings.missing)
        yield Utterance(
            audio=place,
            offset=stretch.start,
            duration=duration,
            speaker=speaker,
            text=tables["text"].get(name) or None,
            label=tables["label"].get(name) or None,
            language=tables["language"].get(name) or None,
            split=split,
            extras={"utterance": name, **({"gender": genders[speaker]} if speaker in genders else {})},
        )
    if apart:
        findings.notes.append(f"{folder / 'utt2dur'}: differs by more than {_APART:g} s from {_some(apart)}")
    if sum(map(len, gone.values())) == len(stretches):
        reason, names = max(gone.items(), key=lambda item: len(item[1]))
        raise UserError(f"{folder}: no utterance can be read; {_some(names)}: {reason}")
    for reason, names in gone.items():
        findings.notes.append(f"{folder}: left out: {_some(names)}: {reason}")


def _tables(folder: Path, stretches: Mapping[str, Segment], findings: Findings) -> dict[str, dict[str, str]]:
    """The tables by utterance; identifiers that only one of them has are counted."""
    labels = [name for name in _LABELS if (folder / name).is_file()]
    if labels:
        findings.no_label = f"{labels[0]} holds none for these utterances"
    if len(labels) > 1:
        raise UserError(f"{folder}: {' and '.join(labels)} both hold labels; keep one of them")
    files = {
        "text": "text",
        "speaker": "utt2spk",
        "language": "utt2lang",
        "duration": "utt2dur",
        "label": labels[0] if labels else _LABELS[0],
    }
    found: dict[str, dict[str, str]] = {}
    for field, file in files.items():
        if field == "speaker":
            file, table = read_speakers(folder)
        else:
            table = read_table(folder / file) if (folder / file).is_file() else {}
        found[field] = table
        if not table:
            continue
        unknown, missing = table.keys() - stretches.keys(), stretches.keys() - table.keys()
        if len(unknown) == len(table):
            raise UserError(f"{folder / file}: none of its {len(table)} identifiers is an utterance here")
        if unknown:
            findings.notes.append(f"{folder / file}: {_some(sorted(unknown))} not in {_source(folder)}")
        if missing:
            findings.notes.append(f"{folder / file}: nothing on {_some(sorted(missing))}")
    if any(not _is_number(value) for value in found["duration"].values()):
        raise UserError(f"{folder / 'utt2dur'}: durations are numbers, s")
    others = {path.name for pattern in _TABLES for path in folder.glob(pattern) if path.is_file()} - _READ
    findings.not_read += [f"{folder.name}/{name}" for name in sorted(others)]
    return found


def _source(folder: Path) -> str:
    return "segments" if (folder / "segments").is_file() else _SCP


def _is_number(value: str) -> bool:
    try:
        return float(value) >= 0
    except ValueError:
        return False


def _some(names: list[str]) -> str:
    return f"{len(names)} utterance{'s' if len(names) > 1 else ''} ({names[0]}{', …' if len(names) > 1 else ''})"
