"""What was read from a corpus and what was not: the summary at the end of `prepare` and `extract`.

label 4 of 4 · text 0 of 4 · speakers 2 · columns not used: room · tables not read: list.csv
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from pydantic import ValidationError

from speechssl.config import UserError
from speechssl.data.alike_names import Names, some
from speechssl.data.columns import NAMED
from speechssl.data.utterance import Utterance
from speechssl.data.values import is_doubtful


@dataclass
class Findings:
    """Findings besides the utterances; filled while these are read.

    Attributes:
        columns: the column that a field was read from, where it has another name than the field.
        unused: columns that match no field; they are kept as extras where they have a name.
        not_read: tables beside the audio that were not read.
        archives: archives beside the audio that were not read.
        sounds: files that may hold sound and were not read.
        missing: counts of the words for a missing value, such as `nan`.
        notes: further messages.
        no_label: where labels are looked for, as the reason when no clip has one and no note gives another.
    """

    columns: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    not_read: list[str] = field(default_factory=list)
    archives: list[str] = field(default_factory=list)
    sounds: list[str] = field(default_factory=list)
    missing: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    no_label: str = "the source holds none"


class Found(Iterator[Utterance]):
    """Utterances of a corpus, with findings.

    Attributes:
        findings: complete when the last utterance has been read.
    """

    def __init__(self, utterances: Iterable[Utterance], findings: Findings):
        self.findings = findings
        self._utterances = iter(utterances)

    def __next__(self) -> Utterance:
        try:
            return next(self._utterances)
        except ValidationError as error:  # a value that no utterance can have, in a table without columns of its own
            problem = error.errors(include_url=False)[0]
            where = ".".join(map(str, problem["loc"]))
            raise UserError(f"{where}: {problem['msg'].removeprefix('Value error, ')}") from None


@dataclass
class Known:
    """Number of clips with each field.

    Attributes:
        clips: all of them.
        label: clips with a label.
        text: clips with a text.
        speakers: different speakers.
        splits: clips per split.
    """

    clips: int = 0
    label: int = 0
    text: int = 0
    speakers: int = 0
    splits: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._doubtful: dict[tuple[str, str], int] = {}
        self._names = {name: Names(name) for name in ("label", "speaker", "language", "split")}

    def add(self, known: Mapping[str, str | None], *, clips: int = 1) -> None:
        """Counts clips with the same fields.

        Args:
            known: their speaker, text, label, language and split, as far as they are known.
            clips: their number.
        """
        self.clips += clips
        self.text += clips if known.get("text") is not None else 0
        self.label += clips if known.get("label") is not None else 0
        for name, names in self._names.items():
            if (value := known.get(name)) is not None:
                names.add(value, clips)
        for name, value in known.items():
            if value is not None and is_doubtful(value):
                self._doubtful[name, value] = self._doubtful.get((name, value), 0) + clips
        self.speakers = len(self._names["speaker"])
        if (split := known.get("split")) is not None:
            self.splits[split] = self.splits.get(split, 0) + clips

    def notes(self) -> list[str]:
        """Warnings about names that may be mistakes, and words that may mean a missing value."""
        found = [note for names in self._names.values() for note in names.notes()]
        if self._doubtful:
            words = some([f"{name} {word!r} ({count} x)" for (name, word), count in sorted(self._doubtful.items())])
            found.append(f"kept as a word: {words}; leave it empty where nothing is known")
        return found


def count_known(utterances: Iterable[Utterance]) -> Known:
    """Counts the fields of utterances.

    >>> count_known([Utterance(audio="a.wav", duration=1.0, label="x", speaker="s")])
    Known(clips=1, label=1, text=0, speakers=1, splits={})
    """
    known = Known()
    for each in utterances:
        known.add({name: getattr(each, name) for name in NAMED})
    return known


def closing_lines(known: Known, findings: Findings) -> list[str]:
    """The summary line, and a line for each note; without any label one of them gives the reason.

    >>> for line in closing_lines(Known(clips=4, text=4), Findings(columns={"text": "sentence"}, not_read=["a.csv"])):
    ...     print(line)
    label 0 of 4 · text 4 of 4 (column 'sentence') · speakers 0 · tables not read: a.csv
    no label: the source holds none
    """
    parts = [
        f"label {known.label} of {known.clips}{_from(findings, 'label')}",
        f"text {known.text} of {known.clips}{_from(findings, 'text')}",
        f"speakers {known.speakers}{_from(findings, 'speaker')}",
    ]
    if known.splits:
        parts.append(f"splits: {some([f'{name} {count}' for name, count in known.splits.items()])}")
    if findings.unused:
        parts.append(f"columns not used: {some(findings.unused)}")
    if findings.not_read:
        parts.append(f"tables not read: {some(findings.not_read)}")
    if findings.archives:
        parts.append(f"archives not read: {some(findings.archives)}")
    if findings.sounds:
        parts.append(f"sound not read: {some(findings.sounds)}")
    explained = known.label or not known.clips or any("no label:" in note for note in findings.notes)
    reason = [] if explained else [f"no label: {findings.no_label}"]
    missing = [missing_note(findings.missing)] if findings.missing else []
    return [" · ".join(parts), *findings.notes, *missing, *reason, *known.notes()]


def missing_note(missing: Mapping[str, int]) -> str:
    """Message about words that were counted as missing.

    >>> missing_note({"nan": 2, "<NA>": 1})
    "counted as missing: '<NA>' (1 x), 'nan' (2 x)"
    """
    return f"counted as missing: {some([f'{word!r} ({count} x)' for word, count in sorted(missing.items())])}"


def _from(findings: Findings, name: str) -> str:
    return f" (column {findings.columns[name]!r})" if name in findings.columns else ""
