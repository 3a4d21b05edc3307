"""Manifests of Lhotse (icefall, k2): `cuts.jsonl.gz`, or `recordings.jsonl.gz` with `supervisions.jsonl.gz`.

Story: any data prepared with Lhotse.
Licence and citation: those of the recordings.

An utterance is a supervision: its text, speaker and language, in its stretch of the recording. A cut without any is an
utterance by itself. Custom fields of supervisions, cuts and recordings are columns as in a table (see `lhotse_fields`).
The JSON is read directly; entries whose audio only Lhotse can compute (mixed or padded cuts, changed speed, one channel
of several) are left out and counted.
"""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

from speechssl.config import Config, UserError
from speechssl.data.corpora import CorpusInfo, duration_of
from speechssl.data.corpora.folder_walk import visible_files
from speechssl.data.corpora.lhotse_fields import Fields, Line
from speechssl.data.corpora.lhotse_records import Left, Recording, Stretch, of_cut, of_recording, of_supervision
from speechssl.data.corpora.rows import json_lines, split_of
from speechssl.data.coverage import Coverage
from speechssl.data.findings import Findings, Found
from speechssl.data.utterance import Utterance

INFO = CorpusInfo(
    name="lhotse",
    story="Any manifests of Lhotse: cuts, or recordings with supervisions.",
    licence="that of the recordings",
    citation="",
    source="--root",
    hours=None,
    utterances=None,
    speakers=None,
    synthetic=False,
)

_SUFFIXES = (".jsonl", ".jsonl.gz")


class Settings(Config):
    """Options of Lhotse's manifests.

    Attributes:
        files: names of the cuts or recordings to read, where a folder holds several; empty for all cuts, or for all
            recordings where there are no cuts.
        base: the folder that relative paths start from (where Lhotse was run); empty: the manifest's folder or the
            nearest of its parents where the first path is found.
    """

    files: tuple[str, ...] = ()
    base: str = ""


def prepare(root: Path, settings: Settings = Settings()) -> Found:  # noqa: B008 -- settings are frozen
    """The utterances of manifests, in their order.

    Args:
        root: a manifest of cuts or of recordings, or the folder of them.
        settings: see `Settings`.

    Returns:
        An iterator of utterances; its `findings` are complete at its end. Utterances. A file that is missing or
        cannot be read has duration 0.0, so that packing gives the reason.

    Raises:
        UserError: no manifests, wrong lines, or nothing that can be read.
    """
    findings = Findings(no_label="no supervision has a 'label', as a field or among its custom ones")
    return Found(_utterances(Path(root), settings, findings), findings)


def _utterances(root: Path, settings: Settings, findings: Findings) -> Iterator[Utterance]:
    root = Path(root).absolute()
    base = Path(settings.base) if settings.base else None
    manifests = [root] if root.is_file() else [root / name for name in settings.files] or find_manifests(root)
    if not manifests:
        raise UserError(f"{root}: no manifest of Lhotse: looked for *cuts*.jsonl(.gz) and *recordings*.jsonl(.gz)")
    for manifest in manifests:
        yield from _read(manifest, base, findings)


def find_manifests(folder: Path) -> list[Path]:
    """The cuts of a folder, or its recordings where there are none."""
    for word in ("cuts", "recordings"):
        found = sorted(path for suffix in _SUFFIXES for path in visible_files(folder, f"*{word}*{suffix}"))
        if found:
            return found
    return []


def _read(manifest: Path, base: Path | None, findings: Findings) -> Iterator[Utterance]:
    left = Left(manifest)
    source = _supervisions(manifest) or manifest
    fields = Fields(source, (each.fields for each in _stretches(manifest, base, Left(manifest), Findings())), findings)
    probe = functools.lru_cache(maxsize=16)(duration_of)  # the supervisions of a recording are adjacent
    found, split, coverage = 0, split_of(manifest.name), Coverage()
    for each in _stretches(manifest, base, left, findings):
        found += 1
        whole = probe(each.audio)
        if whole:
            coverage.add(each.audio, end=each.recorded, whole=whole)
        described = fields.describe(each.fields, each.line)
        described = dataclasses.replace(described, extras={**each.names, **described.extras})
        yield described.utterance(each.audio, offset=each.start, duration=each.duration, split=split)
    if not found:
        raise UserError(next(iter(left.lines()), f"{manifest}: an empty manifest"))
    note = coverage.note()
    findings.notes += [*left.lines(), *([f"{manifest}: {note}"] if note else [])]


def _stretches(manifest: Path, base: Path | None, left: Left, findings: Findings) -> Iterator[Stretch]:
    if "recordings" not in manifest.name:
        for number, values in json_lines(manifest):
            yield from of_cut(values, Line(manifest, number), left, base)
        return
    supervisions = _supervisions(manifest)
    recordings: dict[str, Recording] = {}
    for number, values in json_lines(manifest):
        recording = of_recording(values, Line(manifest, number), left, base)
        recordings[recording.name] = recording
    if supervisions is None:
        name = manifest.name.replace("recordings", "supervisions")
        findings.notes.append(f"{manifest}: no {name} beside it: no texts, speakers or labels but those of recordings")
        for recording in recordings.values():
            yield from recording.whole(left)
        return
    for number, values in json_lines(supervisions):
        yield from of_supervision(values, Line(supervisions, number), recordings, left)


def _supervisions(recordings: Path) -> Path | None:
    """The supervisions beside a manifest of recordings; None for a manifest of cuts."""
    path = recordings.with_name(recordings.name.replace("recordings", "supervisions"))
    return path if path != recordings and path.is_file() else None
