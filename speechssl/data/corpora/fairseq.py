"""Data folders of fairseq's wav2vec 2.0: `train.tsv` with `train.ltr`, `train.wrd` or `train.phn` beside it.

Story: any data prepared for fairseq.
Licence and citation: those of the recordings.

The first line of a tsv is the folder of the audio, every other line a path below it and its number of samples. The
lines of `.wrd` (words) or `.ltr` (letters, `|` between words) are the transcripts in the same order; `.phn` becomes the
extra `phones`. The split is the name of the tsv. A number of samples that the file does not have is reported.
"""

from collections.abc import Iterator
from pathlib import Path

from speechssl.config import Config, UserError, brief_value
from speechssl.data.corpora import CorpusInfo
from speechssl.data.findings import Findings, Found
from speechssl.data.utterance import Utterance
from speechssl.data.values import composed, count_missing

INFO = CorpusInfo(
    name="fairseq",
    story="Any folder prepared for fairseq's wav2vec 2.0: tsv files with ltr, wrd or phn beside them.",
    licence="that of the recordings",
    citation="",
    source="--root",
    hours=None,
    utterances=None,
    speakers=None,
    synthetic=False,
)

_DIGITS = 18  # of a number of samples


class Settings(Config):
    """Options of a fairseq data folder.

    Attributes:
        audio: the folder of the audio, where it has moved since the tsv was written; empty: the first line of the tsv.
        splits: names of the tsv files to read, without suffix; empty for all.
    """

    audio: str = ""
    splits: tuple[str, ...] = ()


def prepare(root: Path, settings: Settings = Settings()) -> Found:  # noqa: B008 -- settings are frozen
    """The utterances of the tsv files, in the order of their names and lines.

    Args:
        root: the folder of the tsv files, or one of them.
        settings: see `Settings`.

    Returns:
        An iterator of utterances; its `findings` are complete at its end. A file that is missing or
        cannot be read has duration 0.0, so that packing gives the reason.

    Raises:
        UserError: no such file, a line that fairseq does not write, or transcripts that do not belong to it.
    """
    findings = Findings(no_label="the tables of fairseq hold none")
    return Found(_utterances(Path(root), settings, findings), findings)


def _utterances(root: Path, settings: Settings, findings: Findings) -> Iterator[Utterance]:
    root = Path(root).absolute()
    tables = [root] if root.is_file() else [root / f"{name}.tsv" for name in settings.splits]
    tables = tables or sorted(filter(is_table, root.glob("*.tsv")))
    if not tables:
        raise UserError(
            f"{root}: no tsv of fairseq in it: a folder in the first line, then a path and a number of samples"
        )
    for table in tables:
        yield from _read(table, settings.audio, findings)


def is_table(path: Path) -> bool:
    """Whether a file begins as fairseq's tsv files do: a line without a tab, then a path and a number of samples."""
    try:
        with path.open(encoding="utf-8") as file:
            first, second = file.readline(4096), file.readline(4096)
    except (OSError, UnicodeDecodeError):
        return False
    name, tab, samples = second.rstrip("\n").rpartition("\t")
    return bool(first.strip() and "\t" not in first.strip() and name and tab and samples.isdecimal())


def _read(table: Path, audio: str, findings: Findings) -> Iterator[Utterance]:
    lines = _lines(table)
    if not lines:
        raise UserError(f"{table}: an empty table; its first line must name the folder of the audio")
    folder = (table.parent / (audio or lines[0].strip())).absolute()
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder, named in line 1 of {table}; name another one: --set audio=FOLDER")
    entries = [_entry(line, f"{table}:{number}") for number, line in enumerate(lines[1:], start=2)]
    texts, phones = _transcripts(table, len(entries)), _beside(table, ".phn", len(entries))
    apart: list[str] = []
    for (name, stated), text, phone in zip(entries, texts, phones, strict=True):
        path = folder / name
        samples, duration = _length(path)
        if samples and samples != stated:
            apart.append(name)
        count_missing(text, findings.missing)
        yield Utterance(
            audio=str(path),
            duration=duration,
            text=text or None,
            split=table.stem,
            extras={"phones": phone} if phone else {},
        )
    if apart:
        count = f"{len(apart)} files do" if len(apart) > 1 else "1 file does"
        findings.notes.append(f"{table}: {count} not have the number of samples that it states ({apart[0]})")


def _entry(line: str, where: str) -> tuple[str, int]:
    name, _, samples = line.rpartition("\t")
    if not name.strip() or not samples.strip().isdecimal() or len(samples) > _DIGITS:
        raise UserError(f"{where}: given {brief_value(line)}, allowed: a path, a tab, a number of samples")
    return name.strip(), int(samples)


def _transcripts(table: Path, count: int) -> list[str]:
    """Words where there are any, else joined letters."""
    words = _beside(table, ".wrd", count)
    letters = [line.replace(" ", "").replace("|", " ").strip() for line in _beside(table, ".ltr", count)]
    if table.with_suffix(".wrd").is_file() and table.with_suffix(".ltr").is_file():
        apart = next((n for n, pair in enumerate(zip(words, letters, strict=True)) if len(set(pair)) > 1), None)
        if apart is not None:
            name = table.with_suffix(".ltr")
            raise UserError(
                f"{name}:{apart + 1}: letters of {letters[apart]!r}, the words are {words[apart]!r}; remove one"
            )
        return words
    return letters if table.with_suffix(".ltr").is_file() else words


def _beside(table: Path, suffix: str, count: int) -> list[str]:
    """The lines of a file beside the table, one per entry; empty ones where there is no such file."""
    path = table.with_suffix(suffix)
    if not path.is_file():
        return [""] * count
    lines = [" ".join(composed(line).split()) for line in _lines(path, count)]
    if len(lines) != count:
        raise UserError(f"{path}: {len(lines)} lines for {count} entries of {table.name}")
    return lines


def _lines(path: Path, count: int = 0) -> list[str]:
    """Lines of a file without blank ones at its end, except those that are needed for `count` lines."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not UTF-8 text at byte {error.start}"
        raise UserError(f"{path}: cannot be read ({reason})") from None
    if lines[-1] == "":  # behind the last line break
        lines.pop()
    while len(lines) > count and not lines[-1].strip():
        lines.pop()
    return [line.rstrip("\r") for line in lines]


def _length(path: Path) -> tuple[int, float]:
    """Samples at the file's own rate, and seconds; zeros for a bad file, so that packing gives the reason."""
    from speechssl.audio import AudioError, probe

    try:
        info = probe(path)
    except AudioError:
        return 0, 0.0
    return info.num_samples, info.duration
