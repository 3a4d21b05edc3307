"""nEMO: acted Polish, 90 sentences in six emotions, with transcripts.

Story: nine actors speak 90 sentences that cover the sounds of Polish in six emotional states; usable for emotion and
for recognition.
Licence: CC BY-NC-SA 4.0 (not for commercial use; share-alike).
Citation: Christop, "nEMO: Dataset of Emotional Speech in Polish", LREC-COLING 2024, arXiv 2404.06292.

Layout, as published: `samples/{speaker}_{emotion}_{sentence}.wav` and `data.tsv` beside it (24 kHz); the columns are
file_id, emotion, raw_text, normalized_text, speaker_id, gender, age.
It also comes as the pack `nemo` (`SPEECHSSL_PACKS`). The archive is GitHub's of a fixed commit; a mirror
(`SPEECHSSL_MIRROR_NEMO`) serves `COMMIT.tar.gz`. There is no official split: keep speakers apart.
"""

import csv
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from speechssl.config import Config, UserError
from speechssl.data.corpora import CorpusInfo, duration_of
from speechssl.data.corpora.download import fetch_folder, mirror, say_fetching
from speechssl.data.corpora.packs import pack_utterances, unpack_pack
from speechssl.data.manifest import Utterance

INFO = CorpusInfo(
    name="nemo",
    story="Real: nine Polish actors speak 90 sentences in six emotions; transcribed.",
    licence="CC BY-NC-SA 4.0",
    citation="Christop, nEMO: Dataset of Emotional Speech in Polish, LREC-COLING 2024",
    source="https://github.com/amu-cai/nEMO",
    hours=3.07,
    utterances=4481,
    speakers=9,
    synthetic=False,
)

_BASE = "https://github.com/amu-cai/nEMO/archive"
COMMIT = "06f1f83dde8f1a780443a57d53b2af3971af34ab"
_FOLDER = "nEMO"
_TABLE = "data.tsv"
_COLUMNS = ("file_id", "emotion", "raw_text", "normalized_text", "speaker_id", "gender", "age")

_log = logging.getLogger(__name__)


class Settings(Config):
    """The corpus has no options."""


def prepare(root: Path, settings: Settings = Settings()) -> Iterator[Utterance]:  # noqa: ARG001, B008 -- every corpus is called with settings; they are frozen
    """Find, unpack or fetch the recordings, at once; then yield them by name.

    Args:
        root: holds `data.tsv` and `samples/`, itself or in `nEMO` (as a clone of the repository does), or will.
        settings: none.

    Returns:
        Utterances with label, speaker, text (as written), language "pl"; extras `text_normalized`, `sex`, `age`
        (years) and `sentence`.

    Raises:
        UserError: the download or the archive fails, or the table is not as published.
    """
    root = Path(root).resolve()
    _refuse_toolkit(root)
    folder = next((each for each in (root, root / _FOLDER) if (each / _TABLE).is_file()), None)
    if folder is None:
        pack = unpack_pack("nemo", root)
        if pack is not None:
            return pack_utterances(pack)
        folder = root / _FOLDER
        say_fetching(root, _TABLE, f"{_FOLDER}/{_TABLE}")
        # GitHub guarantees no checksum, but the commit identifies the content, and gzip's own checksum detects damage.
        fetch_folder(f"{mirror('nemo', _BASE)}{COMMIT}.tar.gz", folder, holds=f"*/{_TABLE}")
    return _read(folder)


def _refuse_toolkit(root: Path) -> None:
    """Refuses data of NVIDIA's toolkit NeMo, which has the same name and is read by another module."""
    from speechssl.data.corpora.foreign import find_foreign

    found = find_foreign(root) if root.exists() else None
    if found is not None and found.corpus == "nemo_manifest":
        raise UserError(
            f"{root}: {found.story}, and nemo is the Polish corpus nEMO; read it with: {found.command(root)}"
        )


def _read(folder: Path) -> Iterator[Utterance]:
    rows = _read_table(folder / _TABLE)
    if len(rows) != INFO.utterances:
        _log.warning("%s: %d rows, expected %d", folder / _TABLE, len(rows), INFO.utterances)
    if not any((folder / "samples" / row["file_id"]).is_file() for row in rows):
        raise UserError(f"{folder / 'samples'}: none of the files that {_TABLE} names is there")
    for row in rows:
        path = folder / "samples" / row["file_id"]
        age = {"age": int(row["age"])} if row["age"].isdecimal() else {}
        yield Utterance(
            audio=str(path),
            duration=duration_of(path),
            speaker=row["speaker_id"],
            text=row["raw_text"],
            label=row["emotion"],
            language="pl",
            extras={
                "sex": row["gender"],
                **age,
                "sentence": path.stem.rpartition("_")[2],
                "text_normalized": row["normalized_text"],
            },
        )


def _read_table(path: Path) -> list[Mapping[str, str]]:
    """Rows by file name. In the published table, speakers follow blanks; quotation marks are plain text."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            if not set(_COLUMNS) <= set(reader.fieldnames or ()):
                raise UserError(f"{path}: columns {', '.join(reader.fieldnames or ())}; wanted: {', '.join(_COLUMNS)}")
            rows = [{name: (row[name] or "").strip() for name in _COLUMNS} for row in reader]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(f"{path}: cannot be read ({reason})") from None
    return sorted(rows, key=lambda row: row["file_id"])
