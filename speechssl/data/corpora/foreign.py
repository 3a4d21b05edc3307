"""Folders and files that another toolkit wrote: which corpus module reads them, and the command that does."""

import itertools
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from speechssl.config import UserError

_CUTS = ("*cuts*.jsonl", "*cuts*.jsonl.gz", "*supervisions*.jsonl", "*supervisions*.jsonl.gz")
_CLIENT = "client_id\t"  # how every table of Common Voice begins


@dataclass(frozen=True)
class Foreign:
    """What another toolkit wrote.

    Attributes:
        corpus: the corpus module that reads it.
        story: what it is, in words.
        whole: whether it holds the audio too (tars, tables), or describes files beside it.
    """

    corpus: str
    story: str
    whole: bool = False

    def command(self, root: str | Path) -> str:
        """The command that prepares it."""
        return f"speechssl prepare {self.corpus} --root {shlex.quote(str(root))} --out OUT"


def find_foreign(root: Path) -> Foreign | None:
    """What another toolkit wrote at a path; None for a plain folder of audio.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Path(folder, "wav.scp").touch()
    ...     find_foreign(Path(folder)).command("data")
    'speechssl prepare kaldi --root data --out OUT'
    """
    return next(_of_folder(root) if root.is_dir() else _of_file(root), None)


def refuse_described(root: Path) -> None:
    """Refuse a folder whose recordings are described by tables of another toolkit.

    Args:
        root: a folder without metadata that `folder` reads.

    Raises:
        UserError: names the tables and the command that reads them.
    """
    found = find_foreign(root)
    if found is not None and not found.whole:
        raise UserError(
            f"{root}: {found.story}; read it with: {found.command(root)} (to take the audio files without it, give the "
            "folder that holds them alone)"
        )


def _of_folder(root: Path) -> Iterator[Foreign]:
    from speechssl.data.corpora import fairseq, huggingface_files, nemo_manifest

    if _any(root, "wav.scp", "*/wav.scp"):
        yield Foreign("kaldi", "a Kaldi data folder (wav.scp)")
    tables = itertools.chain.from_iterable(
        clips.parent.glob("*.tsv") for depth in ("", "*/", "*/*/") for clips in root.glob(f"{depth}clips")
    )
    if any(_first_line(path).startswith(_CLIENT) for path in itertools.islice(tables, 100)):
        yield Foreign("commonvoice", "Common Voice (tables beside clips/)")
    if _any(root, *_CUTS):
        yield Foreign("lhotse", "manifests of Lhotse")
    if any(map(fairseq.is_table, root.glob("*.tsv"))):
        yield Foreign("fairseq", "a data folder of fairseq (tsv)")
    if any(map(nemo_manifest.is_manifest, root.glob("*.json*"))):
        yield Foreign("nemo_manifest", "a manifest of NVIDIA NeMo (audio_filepath)")
    if huggingface_files.is_saved(root) or _any(root, "**/*.parquet", "**/*.arrow"):
        yield Foreign("huggingface", "a data set of Hugging Face (Parquet or Arrow)", whole=True)
    if _any(root, "**/*.tar"):
        yield Foreign("webdataset", "tars", whole=True)


def _of_file(path: Path) -> Iterator[Foreign]:
    from speechssl.data.corpora import fairseq, nemo_manifest

    name = path.name.lower()
    if path.name == "wav.scp":
        yield Foreign("kaldi", "a table of Kaldi")
    elif name.endswith((".parquet", ".arrow")):
        yield Foreign("huggingface", "a table with audio", whole=True)
    elif name.endswith(".tar"):
        yield Foreign("webdataset", "a tar", whole=True)
    elif name.endswith((".jsonl.gz", ".jsonl", ".json")):
        first = _first_line(path)
        if name.endswith(".gz") or '"supervisions"' in first or '"recording_id"' in first or '"sources"' in first:
            yield Foreign("lhotse", "a manifest of Lhotse")
        elif nemo_manifest.is_manifest(path):
            yield Foreign("nemo_manifest", "a manifest of NVIDIA NeMo")
    elif name.endswith(".tsv") and _first_line(path).startswith(_CLIENT):
        yield Foreign("commonvoice", "a table of Common Voice")
    elif name.endswith(".tsv") and fairseq.is_table(path):
        yield Foreign("fairseq", "a table of fairseq")


def _any(root: Path, *patterns: str) -> bool:
    return any(True for pattern in patterns for path in root.glob(pattern) if not path.name.startswith("."))


def _first_line(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.readline(1 << 16).decode("utf-8-sig", "replace")
    except OSError:
        return ""
