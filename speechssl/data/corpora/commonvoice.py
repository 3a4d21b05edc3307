"""Mozilla Common Voice, as it is downloaded: `clips/` and the tables `train.tsv`, `validated.tsv` … beside it.

Story: volunteers read sentences in many languages; others listen and vote.
Licence: CC0 1.0.
Citation: R. Ardila et al., "Common Voice: A Massively-Multilingual Speech Corpus", LREC 2020.

`train`, `dev` and `test` are disjoint parts of `validated`, by speaker. The speaker is `client_id`, the text
`sentence`, the language `locale`. The tables are written without quoting, a quotation mark inside a field doubled.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from speechssl.config import Config, UserError
from speechssl.data.corpora import CorpusInfo
from speechssl.data.corpora.folder_walk import visible_files
from speechssl.data.findings import Findings, Found
from speechssl.data.tables import open_table
from speechssl.data.utterance import Utterance
from speechssl.data.values import count_missing, extra_of, name_of, text_of

INFO = CorpusInfo(
    name="commonvoice",
    story="Any release of Mozilla Common Voice: volunteers read sentences; others listen and vote.",
    licence="CC0 1.0",
    citation='R. Ardila et al., "Common Voice: A Massively-Multilingual Speech Corpus", LREC 2020',
    source="https://commonvoice.mozilla.org/datasets, unpacked: --root",
    hours=None,
    utterances=None,
    speakers=None,
    synthetic=False,
)

Table = Literal["train", "dev", "test", "validated", "other", "invalidated"]
_OFFICIAL: tuple[Table, ...] = ("train", "dev", "test")
_PARTS = frozenset(_OFFICIAL)
_NEEDED = ("client_id", "path", "sentence")
_READ = ("client_id", "sentence", "locale")
_COUNTS = ("up_votes", "down_votes")
_TRIED = 1000  # rows without a clip after which a table is refused


class Settings(Config):
    """Options of Common Voice.

    Attributes:
        tables: tables to read; empty: train, dev and test, or validated where none of them is there. The split
            of an utterance is its table; those of `validated`, `other` and `invalidated` have none.
    """

    tables: tuple[Table, ...] = ()


def prepare(root: Path, settings: Settings = Settings()) -> Found:  # noqa: B008 -- settings are frozen
    """The utterances of a language, table by table.

    Args:
        root: the folder of a language with `clips/`, or a folder that holds one such folder at any depth up to 3.
        settings: see `Settings`.

    Returns:
        An iterator of utterances; its `findings` are complete at its end. Their duration is 0.0 (not known),
        so that the clips are opened only once, when they are packed.

    Raises:
        UserError: no such layout, a wrong table, or none of the clips exists.
    """
    findings = Findings(no_label="the tables of Common Voice hold none")
    return Found(_utterances(Path(root), settings, findings), findings)


def _utterances(root: Path, settings: Settings, findings: Findings) -> Iterator[Utterance]:
    folder = _language_folder(Path(root).resolve())
    tables = settings.tables or tuple(each for each in _OFFICIAL if (folder / f"{each}.tsv").is_file())
    tables = tables or ("validated",)
    if "validated" in tables and _PARTS & set(tables):
        raise UserError(f"{folder}: validated holds train, dev and test already; name either it or them in 'tables'")
    for table in dict.fromkeys(tables):
        yield from _table(folder, table, findings)
    findings.columns |= {"text": "sentence", "speaker": "client_id"}
    findings.not_read += [path.name for path in visible_files(folder, "*.tsv") if path.stem not in tables]


def _language_folder(root: Path) -> Path:
    found = [
        path for depth in ("", "*/", "*/*/", "*/*/*/") for path in sorted(root.glob(f"{depth}clips")) if path.is_dir()
    ]
    folders = [path.parent for path in found if visible_files(path.parent, "*.tsv")]
    if not folders:
        raise UserError(
            f"{root}: no folder of Common Voice: looked for clips/ with train.tsv or validated.tsv beside it"
        )
    if len(folders) > 1:
        names = ", ".join(folder.name for folder in folders[:5])
        raise UserError(f"{root}: {len(folders)} languages ({names}); give the folder of one of them")
    return folders[0]


def _table(folder: Path, name: str, findings: Findings) -> Iterator[Utterance]:
    table = open_table(folder / f"{name}.tsv")
    missing = next((column for column in _NEEDED if column not in table.columns), None)
    if missing is not None:
        raise UserError(f"{table.path}: no column {missing!r}; there are: {', '.join(table.columns)}")
    columns = [column for column in table.columns if column not in (*_NEEDED, *_COUNTS, "locale")]
    seen = 0
    for count, row in enumerate(table.rows(), start=1):
        values = {column: _unquoted(str(value)) for column, value in zip(table.columns, row.values, strict=True)}
        clip = values["path"] if Path(values["path"]).suffix else f"{values['path']}.mp3"  # releases before 2019
        place = folder / "clips" / Path(clip).name
        seen += place.is_file()
        if count == _TRIED and not seen:
            break
        extras = {column: extra_of(values[column]) for column in columns}
        extras |= {column: int(values[column]) for column in _COUNTS if values.get(column, "").isdecimal()}
        for column in _READ:
            count_missing(values.get(column), findings.missing)
        try:
            speaker, language = name_of(values["client_id"]), name_of(values.get("locale"))
            text = text_of(values["sentence"])
        except ValueError as error:
            raise UserError(f"{table.path}:{row.line}: {error}") from None
        yield Utterance(
            audio=str(place),
            duration=0.0,
            speaker=speaker,
            text=text,
            language=language,
            split=name if name in _PARTS else None,
            extras={column: value for column, value in extras.items() if value is not None},
        )
    if not seen:
        raise UserError(f"{table.path}: none of the clips that it names is in {folder / 'clips'}")


def _unquoted(value: str) -> str:
    """A cell with doubled quotation marks but no enclosing ones; the table's reader handles enclosed ones.

    >>> _unquoted('say ""no""'), _unquoted('a "b" c')
    ('say "no"', 'a "b" c')
    """
    return value.replace('""', '"') if '"' not in value.replace('""', "") else value
