"""Folders and files of other toolkits: the corpus module that reads them, and its command."""

import itertools
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from speechssl.config import UserError
from speechssl.data.corpora.rows import json_lines

_CUTS = ("*cuts*.jsonl", "*cuts*.jsonl.gz", "*supervisions*.jsonl", "*supervisions*.jsonl.gz")
_LHOTSE = (
    {"id", "start", "duration", "recording"},
    {"id", "sources", "sampling_rate"},
    {"id", "recording_id", "start"},
)
_OPENED = 64  # files of one kind that are opened to detect their format; a folder may hold a million
_CLIENT = "client_id\t"  # beginning of every table of Common Voice


@dataclass(frozen=True)
class Foreign:
    """Data of another toolkit.

    Attributes:
        corpus: the corpus module that reads it.
        story: its description.
        whole: whether it holds the audio too (tars, tables), or describes files beside it.
        above: whether it is one table of several, which are read together from their folder.
    """

    corpus: str
    story: str
    whole: bool = False
    above: bool = False

    def command(self, root: str | Path) -> str:
        """The command that prepares it."""
        folder = Path(root).parent if self.above else root
        return f"speechssl prepare {self.corpus} --root {shlex.quote(str(folder))} --out OUT"


def find_foreign(root: Path) -> Foreign | None:
    """Data of another toolkit at a path; None for a plain folder of audio.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Path(folder, "wav.scp").touch()
    ...     find_foreign(Path(folder)).command("data")
    'speechssl prepare kaldi --root data --out OUT'
    """
    found = next(_described(root) if root.is_dir() else _of_file(root), None)
    return found or (next(_whole(root), None) if root.is_dir() else None)


def refuse_described(root: Path) -> None:
    """Refuses recordings of another toolkit: without its tables they would lose texts and labels.

    Args:
        root: a folder without metadata that `folder` reads, or a file.

    Raises:
        UserError: names the tables and the command that reads them.
    """
    found = next(_described(root) if root.is_dir() else _of_file(root), None)
    if found is not None and not found.whole:
        alone = "; for the recordings without it, give the folder that holds them alone" if root.is_dir() else ""
        raise UserError(f"{root}: {found.story}; it is read by: {found.command(root)}{alone}")


def _described(root: Path) -> Iterator[Foreign]:
    """Tables at the top of a folder."""
    from speechssl.data.corpora import fairseq, nemo_manifest

    if _any(root, "wav.scp", "*/wav.scp"):
        yield Foreign("kaldi", "a Kaldi data folder (wav.scp)")
    tables = itertools.chain.from_iterable(
        clips.parent.glob("*.tsv") for depth in ("", "*/", "*/*/") for clips in root.glob(f"{depth}clips")
    )
    if any(_first_line(path).startswith(_CLIENT) for path in itertools.islice(tables, _OPENED)):
        yield Foreign("commonvoice", "Common Voice (tables beside clips/)")
    if _any(root, *_CUTS):
        yield Foreign("lhotse", "manifests of Lhotse")
    if any(map(fairseq.is_table, _first(root, "*.tsv"))):
        yield Foreign("fairseq", "a data folder of fairseq (tsv)")
    if any(map(nemo_manifest.is_manifest, _first(root, "*.json*"))):
        yield Foreign("nemo_manifest", "a manifest of NVIDIA NeMo (audio_filepath)")


def _whole(root: Path) -> Iterator[Foreign]:
    """Tars and tables with audio anywhere below a folder."""
    from speechssl.data.corpora import huggingface_files

    if huggingface_files.is_saved(root) or _any(root, "**/*.parquet", "**/*.arrow"):
        yield Foreign("huggingface", "a data set of Hugging Face (Parquet or Arrow)", whole=True)
    if _any(root, "**/*.tar"):
        yield Foreign("webdataset", "tars", whole=True)


def _of_file(path: Path) -> Iterator[Foreign]:
    from speechssl.data.corpora import fairseq, nemo_manifest

    name = path.name.lower()
    if path.name == "wav.scp":
        yield Foreign("kaldi", "a table of Kaldi", above=True)
    elif name.endswith((".parquet", ".arrow")):
        yield Foreign("huggingface", "a table with audio", whole=True)
    elif name.endswith(".tar"):
        yield Foreign("webdataset", "a tar", whole=True)
    elif name.endswith((".jsonl.gz", ".jsonl", ".json")):
        if _is_of_lhotse(path):
            yield Foreign("lhotse", "a manifest of Lhotse", above="supervisions" in name)
        elif nemo_manifest.is_manifest(path):
            yield Foreign("nemo_manifest", "a manifest of NVIDIA NeMo")
    elif name.endswith(".tsv") and _first_line(path).startswith(_CLIENT):
        yield Foreign("commonvoice", "a table of Common Voice", above=True)
    elif name.endswith(".tsv") and fairseq.is_table(path):
        yield Foreign("fairseq", "a table of fairseq")


def _is_of_lhotse(path: Path) -> bool:
    """Whether the first line is a cut, a recording or a supervision."""
    try:
        _, first = next(json_lines(path))
    except (UserError, StopIteration):
        return False
    return any(keys <= first.keys() for keys in _LHOTSE)


def _first(root: Path, pattern: str) -> Iterator[Path]:
    return itertools.islice((path for path in root.glob(pattern) if not path.name.startswith(".")), _OPENED)


def _any(root: Path, *patterns: str) -> bool:
    return any(True for pattern in patterns for path in root.glob(pattern) if not path.name.startswith("."))


def _first_line(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.readline(1 << 16).decode("utf-8-sig", "replace")
    except OSError:
        return ""
