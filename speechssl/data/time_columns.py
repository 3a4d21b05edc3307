"""Columns that look like times of a stretch and are not understood: refused where they could change what is read.

A start that is not recognised gives a wrong stretch without an error: `time, duration` would be read as the first
seconds of each file. So a column is refused if its name is made of the words of a time (`utt_start`, `from`,
`Endzeit`), its values are times, and the table has no better column for it. Dates, ages, counts and texts are no times
of a stretch.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from speechssl.config import UserError
from speechssl.data.tables import Row
from speechssl.data.values import is_missing

_LOOKED_AT = 100  # values per column that are not missing
_EPOCH = 1e8  # s: no recording of three years; Unix times are above 1e9

# Words that occur in the name of a time, in the languages of which tables were seen. The words of `_SURE` mean a
# start or an end beside any other word (`vad_start`); those of `_ALONE` only beside words of `_NEUTRAL` (`time_from`).
_SURE: Mapping[str, str] = MappingProxyType(
    {
        "start": "starts? starting started begins? beginning onset anfangs? beginn début debut inicio início inizio "
        "comienzo początek poczatek begin aanvang начало старт başlangıç baslangic",
        "end": "ends? ending ended stops? finish enden? ende einde eind koniec конец bitiş bitis término termino",
        "length": "durations? dur lengths? len dauer länge laenge durée duree duración duracion durata duração duracao "
        "duur длительность süre varighet varighed längd",
    }
)
_ALONE: Mapping[str, str] = MappingProxyType(
    {
        "start": "from offset seek beg bgn begt bt strt in t0 tmin xmin von desde od van da с от",
        "end": "to until till thru endt et out tmax xmax bis hasta tot до по fin fim slut slutt",
        "length": "numsamples numframes nsamples nframes samples frames seconds secs sec milliseconds ms lasting",
        "point": r"(?:time|timestamp|ts|t)\d? timestamps timecode tc zeit tijd tid czas temps tiempo",
    }
)
_CJK: Mapping[str, str] = MappingProxyType(
    {"start": "开始|開始|起始|起点|시작", "end": "结束|結束|終了|终止|종료|끝", "length": "时长|時長|長さ|长度|길이"}
)
_NEUTRAL = (
    "time times timestamp timestamps stamp ts timecode t zeit zeitpunkt zeitstempel tijd tijdstip tid czas temps "
    "tiempo tempo punkt point position pos mark marker offset seg segm segment utt utterance audio clip file wav chunk "
    "snippet interval region window event cut stretch part abs rel absolute relative inclusive exclusive incl excl"
)
_UNITS = (
    "s sec secs second seconds sekunde sekunden ms msec msecs milli millis millisecond milliseconds us ns m min mins "
    "minute minutes h hh mm ss ff hhmmss hms samples? frames? idx index"
)
_OTHER_THINGS = re.compile(
    r"other|date|day|week|month|year|yr|age|page|line|row|chars?|characters?|tokens?|words?|text|transcript|sentence"
    r"|vocab|level|value|count|num|number|n|is|has|flag|score|prob|probability|conf|confidence|logprob|loss|ids?|names?"
    r"|speaker|user|city|country|place|pitch|f0|freq|frequency|k?hz|db|temperature|silence|latency|voice|created"
    r"|recorded|uploaded|updated|modified|timezone|zone"
)
"""With one of these in its name, a column is something else: `start_year`, `end_page`, `voice_onset_time`."""

_WORDS: Mapping[str, str] = MappingProxyType({"start": "the start", "end": "the end", "length": "the length"})
_RENAMED: Mapping[str, str] = MappingProxyType({"start": "start", "end": "end", "length": "duration"})
_DATE = re.compile(r"(?:19|20)\d{6}(?:\d{4,6})?|\d{4}[-/.]\d{1,2}(?:[-/.].*)?|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}(?:\D.*)?")
_TIME = re.compile(
    r"[+-]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:e[+-]?\d+)?\s*(?:m?s|secs?|seconds?|m|min|minutes?|h)?"
    r"|\d+(?::\d{1,2}){1,3}(?:[.,;:]\d+)?|\d+ days?.*|pt?\d.*",
    re.IGNORECASE,
)


Rows = Callable[[], Iterator[Row]]


def _any_of(words: str) -> str:
    return "|".join(sorted(words.split(), key=len, reverse=True))


_PARTS = f"(?:{_any_of(_NEUTRAL)})*"
_GLUED: Mapping[str, re.Pattern[str]] = MappingProxyType(  # `utt_start`, `uttstart`, `Startzeit`, `tEnd`
    {
        role: re.compile(f"{_PARTS}(?:{_any_of(words)}){_PARTS}(?:in)?(?:{_any_of(_UNITS)})*")
        for role, words in _SURE.items()
    }
)
_SINGLE = {role: re.compile(_any_of(words)) for role, words in _ALONE.items()}
_COUNTED = re.compile(r"(?:samples?|frames?|idx|index|us|ns)$")  # often written beside the same time in seconds
_BESIDE = re.compile(f"{_any_of(_NEUTRAL)}|{_any_of(_UNITS)}")


@dataclass(frozen=True)
class TimeName:
    """Meaning of the name of a column.

    Attributes:
        role: start, end, length, or point: a time that may be a start or an end.
        sure: the name has no word for the time of something else, or for a count of samples.
        strong: it has a word that only means a start, an end or a length.
        rest: the name without the word for the role; equal for the two of a pair.
    """

    role: str
    sure: bool
    strong: bool
    rest: str


def time_name(column: str) -> TimeName | None:
    """Kind of time that the name of a column means; None where it means no time.

    >>> [found and found.role for found in map(time_name, ("uttStart", "Endzeit", "from", "time", "dur_total", "t1"))]
    ['start', 'end', 'start', 'point', 'length', 'point']
    >>> [time_name(name) for name in ("from_corpus", "time_of_day", "start_year", "weekend", "age", "sample_rate")]
    [None, None, None, None, None, None]
    """
    words = _words(column)
    if not words or any(map(_OTHER_THINGS.fullmatch, words)):
        return None
    whole = "".join(words)
    for role, pattern in _GLUED.items():
        if pattern.fullmatch(whole):
            return TimeName(role, sure=not _COUNTED.search(whole), strong=True, rest="")
    for role, pattern in _CJK.items():
        if re.search(pattern, whole):
            return TimeName(role, sure=True, strong=True, rest="")
    for role, pattern in _GLUED.items():
        rest = [word for word in words if not pattern.fullmatch(word)]
        if len(rest) < len(words):
            return TimeName(role, sure=False, strong=True, rest=" ".join(rest))
    for role, pattern in _SINGLE.items():
        if any(map(pattern.fullmatch, words)) and all(
            pattern.fullmatch(word) or _BESIDE.fullmatch(word) for word in words
        ):
            return TimeName(role, sure=True, strong=False, rest="")
    return None


def _words(column: str) -> list[str]:
    apart = re.sub(r"(?<=[^\W\d_])(?<![A-ZА-Я])(?=[A-ZА-Я])", " ", column)
    return [word for word in re.split(r"[\W_]+", apart.casefold()) if word]


def holds_times(values: Iterable[object]) -> bool:
    """Whether one of the first hundred values is a time within a recording: a number, a clock time; no date.

    >>> holds_times(["", "1.5"]), holds_times(["00:01,5"]), holds_times(["2024-05-01 10:00", "1.7e9"])
    (True, True, False)
    """
    seen = 0
    for value in values:
        if is_missing(value):
            continue
        if _is_time(value):
            return True
        seen += 1
        if seen == _LOOKED_AT:
            return False
    return False


def _is_time(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return False
    text = str(value).strip()
    if _DATE.fullmatch(text) or not _TIME.fullmatch(text):
        return False
    try:
        return abs(float(text.replace(",", "."))) < _EPOCH
    except ValueError:
        return True


class TimeColumns:
    """The columns of a table that look like times and are not read.

    Args:
        columns: all names.
        fields: the columns that are understood, by field.
        rows: reads the rows of the table again at each call.
    """

    def __init__(self, columns: Sequence[str], fields: Mapping[str, tuple[int, ...]], rows: Rows):
        taken = {place for places in fields.values() for place in places}
        named = {
            place: found
            for place, column in enumerate(columns)
            if place not in taken and (found := time_name(column)) is not None
        }
        self._columns, self._fields = columns, fields
        self._named = {
            place: found for place, found in named.items() if holds_times(row.values[place] for row in rows())
        }

    def refuse(self, where: str) -> None:
        """Refuses columns that could change the stretches.

        Args:
            where: the table, for messages.

        Raises:
            UserError: names the column and its correct name.
        """
        has_start, has_end, has_length = (name in self._fields for name in ("offset", "end", "duration"))
        if not (has_start or has_end or has_length):
            self._refuse_pair(where)
        for place, found in self._named.items():
            for role in ("start", "end") if found.role == "point" else (found.role,):
                other = self._understood(role)
                complete = has_start and (has_end or has_length)
                refused = {
                    "start": has_end or has_length,
                    "end": (has_start or has_length) and ((found.sure and found.strong) or not complete),
                    "length": has_start and not complete,
                }[role]
                if other is None and refused and not (found.role == "point" and complete):
                    raise UserError(self._message(where, [(place, role)]))
                if other is not None and found.sure and found.strong and role != "length":
                    raise UserError(
                        f"{where}: columns {other!r} and {self._columns[place]!r} both look like {_WORDS[role]}; "
                        f"rename the one that is not meant, for example {self._columns[place]!r} to "
                        f"'other_{self._columns[place]}'"
                    )

    def hints(self) -> tuple[str, ...]:
        """Hints about columns that may be times, where the table has no times at all."""
        if any(name in self._fields for name in ("offset", "end", "duration")):
            return ()
        return tuple(
            f"column {self._columns[place]!r} may be meant for a time in the file: rename it to "
            f"{_RENAMED.get(found.role, 'start')!r} then"
            for place, found in self._named.items()
            if found.role != "length"
        )

    def _understood(self, role: str) -> str | None:
        field = {"start": "offset", "end": "end", "length": "duration"}[role]
        return self._columns[self._fields[field][0]] if field in self._fields else None

    def _refuse_pair(self, where: str) -> None:
        """Without any time that is understood: a start with an end or a length, or the plain name of one of them."""
        starts = [(place, each) for place, each in self._named.items() if each.role in ("start", "point")]
        ends = [
            (place, each)
            for place, each in self._named.items()
            if each.role in ("end", "length") or (each.role == "point" and self._columns[place][-1].isdigit())
        ]
        for place, start in starts:
            for other, end in ends:
                paired = start.rest == end.rest or start.sure or end.role != "length"
                if paired and (place < other or (place != other and end.role != "point")):
                    role = "length" if end.role == "length" else "end"
                    raise UserError(self._message(where, [(place, "start"), (other, role)]))
        for place, found in self._named.items():
            if found.sure and found.strong and found.role in ("start", "end"):
                raise UserError(self._message(where, [(place, found.role)]))

    def _message(self, where: str, places: Sequence[tuple[int, str]]) -> str:
        names = [self._columns[place] for place, _ in places]
        rights = [f"'{_RENAMED[role]}'" for _, role in places]
        many = len(places) > 1
        return (
            f"{where}: column{'s' if many else ''} {' and '.join(map(repr, names))} {'are' if many else 'is'} not used "
            f"and look{'' if many else 's'} like {' and '.join(_WORDS[role] for _, role in places)} of a stretch; "
            f"rename {'them' if many else 'it'} to {' and '.join(rights)} in seconds ('{_RENAMED[places[0][1]]}_ms' in "
            f"milliseconds), or to {' and '.join(repr(f'other_{name}') for name in names)} if "
            f"{'they are' if many else 'it is'} something else"
        )
