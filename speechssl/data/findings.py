"""What was understood of a corpus and what was not: the line that `prepare` and `extract` end with.

label 4 of 4 · text 0 of 4 · speakers 2 · columns not used: room · tables not read: list.csv
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from speechssl.data.columns import NAMED
from speechssl.data.utterance import Utterance
from speechssl.data.values import alike, folded

_SHOWN = 8  # names in a list


@dataclass
class Findings:
    """What was found beside the utterances; filled while they are read.

    Attributes:
        columns: the column that a field was read from, where it has another name than the field.
        unused: columns that were understood as nothing; they are kept as extras where they have a name.
        not_read: tables beside the audio that were not read.
        notes: sentences.
    """

    columns: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    not_read: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Found(Iterator[Utterance]):
    """Utterances of a corpus, with what was found beside them.

    Attributes:
        findings: complete when the last utterance has been read.
    """

    def __init__(self, utterances: Iterable[Utterance], findings: Findings):
        self.findings = findings
        self._utterances = iter(utterances)

    def __next__(self) -> Utterance:
        return next(self._utterances)


@dataclass
class Known:
    """Of how many clips something is known.

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
        self._names = {name: _Names(f"{name}s") for name in ("label", "speaker", "language", "split")}

    def add(self, known: Mapping[str, str | None], *, clips: int = 1) -> None:
        """Count clips of which the same is known.

        Args:
            known: their speaker, text, label, language and split, as far as they are known.
            clips: how many they are.
        """
        self.clips += clips
        self.text += clips if known.get("text") is not None else 0
        self.label += clips if known.get("label") is not None else 0
        for name, names in self._names.items():
            if (value := known.get(name)) is not None:
                names.add(value)
        self.speakers = len(self._names["speaker"].names)
        if (split := known.get("split")) is not None:
            self.splits[split] = self.splits.get(split, 0) + clips

    def notes(self) -> list[str]:
        """Sentences about names that may be meant to be one."""
        return [note for names in self._names.values() if (note := names.note())]


class _Names:
    """Different names of one kind, and those that look like another."""

    def __init__(self, kind: str):
        self.kind = kind
        self.names: set[str] = set()
        self._firsts: dict[str, str] = {}
        self._alike: dict[str, None] = {}

    def add(self, name: str) -> None:
        if name in self.names:
            return
        self.names.add(name)
        first = self._firsts.setdefault(alike(name), name)
        if first != name:
            self._alike |= {first: None, name: None}

    def note(self) -> str | None:
        if not self._alike:
            return None
        capitals = len(set(map(folded, self._alike))) == len(set(map(alike, self._alike)))
        words = "differ only in capitals" if capitals else "may be meant to be the same"
        return f"{self.kind} {words}: {_some([repr(name) for name in self._alike])}"


def count_known(utterances: Iterable[Utterance]) -> Known:
    """Count what is known of utterances.

    >>> count_known([Utterance(audio="a.wav", duration=1.0, label="x", speaker="s")])
    Known(clips=1, label=1, text=0, speakers=1, splits={})
    """
    known = Known()
    for each in utterances:
        known.add({name: getattr(each, name) for name in NAMED})
    return known


def closing_lines(known: Known, findings: Findings) -> list[str]:
    """The line of what was understood, and a line for each note.

    >>> closing_lines(Known(clips=4, text=4), Findings(columns={"text": "sentence"}, not_read=["list.csv"]))
    ["label 0 of 4 · text 4 of 4 (column 'sentence') · speakers 0 · tables not read: list.csv"]
    """
    parts = [
        f"label {known.label} of {known.clips}{_from(findings, 'label')}",
        f"text {known.text} of {known.clips}{_from(findings, 'text')}",
        f"speakers {known.speakers}{_from(findings, 'speaker')}",
    ]
    if known.splits:
        parts.append(f"splits: {_some([f'{name} {count}' for name, count in known.splits.items()])}")
    if findings.unused:
        parts.append(f"columns not used: {_some(findings.unused)}")
    if findings.not_read:
        parts.append(f"tables not read: {_some(findings.not_read)}")
    return [" · ".join(parts), *findings.notes, *known.notes()]


def _from(findings: Findings, name: str) -> str:
    return f" (column {findings.columns[name]!r})" if name in findings.columns else ""


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"
