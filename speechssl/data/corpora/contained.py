"""Audio in tars and tables as a source of `extract`, which can be read several times."""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from speechssl.data.corpora.folder_walk import is_audio, is_metadata, walk
from speechssl.data.corpora.foreign import find_foreign
from speechssl.data.findings import Findings
from speechssl.data.utterance import Utterance

_SUFFIXES = (".tar", ".parquet", ".arrow")


class Contained:
    """Tars, or data sets of Hugging Face, whose utterances are read at each iteration.

    Attributes:
        root: the folder to which paths are relative.
        findings: complete when all utterances have been read once.
    """

    def __init__(self, root: Path, sources: Sequence[Path]):
        self.root, self.findings = root, Findings()
        self._sources, self._complete = sources, False

    def utterances(self) -> Iterator[Utterance]:
        """All utterances in order.

        Raises:
            UserError: as the corpora `webdataset` and `huggingface` raise.
        """
        from speechssl.data.corpora import huggingface, webdataset

        for source in self._sources:
            module = webdataset if _is_tars(source) else huggingface
            found = module.prepare(source)
            yield from found
            if not self._complete:
                mine, new = self.findings, found.findings
                mine.columns |= new.columns
                mine.unused += [name for name in new.unused if name not in mine.unused]
                mine.not_read += new.not_read
                mine.no_label = new.no_label
                for word, count in new.missing.items():
                    mine.missing[word] = mine.missing.get(word, 0) + count
                mine.notes += [note for note in new.notes if note not in mine.notes]
        self._complete = True


def open_contained(source: str) -> Contained | None:
    """Tars and tables with audio of a source; None for files of audio and anything else.

    Args:
        source: a `.tar`, `.parquet` or `.arrow` file, a glob or a pattern with braces of them, a folder that holds no
            files of audio but some of these, or `hf:org/name`.

    >>> open_contained("a.wav") is None
    True
    """
    path = Path(source)
    if path.is_dir():
        return Contained(path.absolute(), [path.absolute()]) if _holds_containers(path) else None
    if path.is_file():
        return Contained(path.absolute().parent, [path.absolute()]) if source.lower().endswith(_SUFFIXES) else None
    if source.startswith("hf:"):
        return Contained(Path("/"), [path])
    if not source.lower().endswith(_SUFFIXES):
        return None
    if "{" in source:
        return Contained(path.absolute().parent, [path])
    found = [Path(each).absolute() for each in sorted(glob.glob(source, recursive=True))]  # noqa: PTH207 -- an absolute pattern
    return Contained(Path(os.path.commonpath([each.parent for each in found])), found) if found else None


def _is_tars(source: Path) -> bool:
    if source.is_dir():
        found = find_foreign(source)
        return found is not None and found.corpus == "webdataset"
    return source.name.lower().endswith(".tar")


def _holds_containers(folder: Path) -> bool:
    """Whether a folder holds no file of audio and no metadata, but tars or tables with audio."""
    if any(is_audio(name) or is_metadata(name) for _, names in walk(folder) for name in names):
        return False
    found = find_foreign(folder)
    return found is not None and found.whole
