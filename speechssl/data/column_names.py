"""Names of columns that are understood, units of times, and names that are mistakes.

The names are those that Hugging Face's audiofolder, Common Voice, audformat, Praat and ELAN exports and users of pandas
write; capitals, blanks, hyphens and underscores do not count (`File Name`, `file-name`, `fileName`). Times are seconds;
a unit in the name is understood (`start_ms`, `Begin Time - msec`, `End Time (s)`). `offset` is where a stretch starts,
but where it ends when there is an `onset`, as in tables of sound events.
"""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from speechssl.config import UserError

COLUMNS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = MappingProxyType(
    {
        field: (tuple(strong.split()), tuple(weak.split()))
        for field, strong, weak in (
            (
                "file",
                "filename file filepath path audio audiopath audiofile audiofilename audiofilepath wav wavpath wavfile "
                "wavfilename clip clippath clipname",
                "soundfile recording",
            ),
            (
                "text",
                "text transcription transcript sentence",
                "normalizedtext normalizedtranscription rawtext rawtranscription words",
            ),
            ("label", "label class emotion category classlabel classname eventlabel labelname", "target intent"),
            ("speaker", "speaker speakerid spk spkid clientid speakername spkname talker talkerid", ""),
            ("language", "language lang locale languagecode langcode", ""),
            ("split", "split", "subset set partition"),
            (
                "offset",
                "offset start begin onset starttime begintime onsettime segmentstart segmentbegin segmentstarttime "
                "segmentbegintime timestart timebegin xmin tmin tbeg",
                "",
            ),
            (
                "end",
                "end stop endtime stoptime offsettime segmentend segmentstop segmentendtime segmentstoptime timeend "
                "timestop xmax tmax",
                "",
            ),
            ("duration", "duration dur segmentduration audioduration tdur", ""),
        )
    }
)
"""By field, names in lower case without blanks and signs; those of the second list count where none of the first is."""

TIMES = ("offset", "end", "duration")
WORDS: Mapping[str, str] = MappingProxyType(
    {field: f"the {field}" for field in COLUMNS} | {"offset": "the start", "end": "the end"}
)
"""Names of fields in messages."""

_ONSET = ("onset", "onsettime")
_UNITS: Mapping[str, float] = MappingProxyType(  # s; "ssmsec" before "msec", "milliseconds" before "seconds"
    {
        **dict.fromkeys(("hhmmssms", "hhmmssmmm", "hhmmss", "mmss", "hms", "ssmsec"), 1.0),  # clock times and seconds
        **dict.fromkeys(("milliseconds", "millisecond", "millis", "msecs", "msec", "ms"), 0.001),
        **dict.fromkeys(("seconds", "second", "secs", "sec", "s"), 1.0),
    }
)
_OTHER_UNITS = (
    *("samples", "sample", "frames", "frame", "ticks", "bytes", "us", "ns", "cs"),
    *("microseconds", "nanoseconds", "centiseconds", "minutes", "minute", "mins", "min", "hours", "hour"),
)
_LENGTHS_IN_UNITS = ("length", "len")  # times where the unit is known, as in `length_s`
_LENGTHS = (  # of unknown meaning and unit
    *_LENGTHS_IN_UNITS,
    *("numsamples", "numframes", "nsamples", "nframes", "samplecount", "framecount"),
)
_MAYBE: Mapping[str, tuple[str, ...]] = MappingProxyType(  # often something else; reported where the field is empty
    {
        "duration": _LENGTHS,
        "text": (
            *(
                "utterance",
                "caption",
                "prompt",
                "phrase",
                "word",
                "script",
                "annotation",
                "annotations",
                "annotationvalue",
            ),
            *("content", "orthography", "ortho", "spokentext", "subtitle", "lyrics", "reference", "groundtruth"),
        ),
        "label": ("classid", "labelid", "sentiment", "keyword", "command", "tag", "tags", "style"),
        "speaker": (
            *("actor", "actorid", "participant", "participantid", "subject", "subjectid", "reader", "readerid"),
            *("userid", "user", "person", "personid", "narrator", "singer", "tier"),
        ),
        "split": ("usage", "phase", "setname", "splitname", "subsetname", "datasplit", "traintest", "fold"),
    }
)


def plain(name: str) -> str:
    """A name in lower case without blanks and signs.

    >>> plain("Begin Time - ss.msec")
    'begintimessmsec'
    """
    return re.sub(r"[\W_]+", "", name.casefold())


def is_weak(column: str) -> bool:
    """Whether a column may mean a field but may also mean something else."""
    return any(plain(column) in weak for _, weak in COLUMNS.values())


def find_fields(
    columns: Sequence[str], where: str, *, with_times: bool = True
) -> tuple[dict[str, tuple[int, ...]], dict[int, float]]:
    """The columns of each field, by their place, and the seconds in one unit of those that hold a time.

    Args:
        columns: names as they are in the header.
        where: the table, for messages.
        with_times: rows are stretches of files; otherwise a column that looks like a time is like any other.

    Raises:
        UserError: no column names the file; or a column is nearly called like one that is missing (the message says
            which to rename).

    >>> find_fields(("File Name", "onset", "Offset", "room", "dur_ms"), "t.csv")
    ({'file': (0,), 'offset': (1,), 'end': (2,), 'duration': (4,)}, {1: 1.0, 2: 1.0, 4: 0.001})
    >>> find_fields(("file", "speeker"), "t.csv")
    Traceback (most recent call last):
    speechssl.config.UserError: t.csv: column 'speeker' is not used and looks like 'speaker'; rename it to 'speaker'...
    """
    fields: dict[str, tuple[int, ...]] = {}
    units: dict[int, float] = {}
    times = [_time_of_column(column) for column in columns]
    with_onset = any(base in _ONSET for base, _ in times)
    for field, (strong, weak) in COLUMNS.items():
        if field in TIMES:
            places = [
                place
                for place, (base, unit) in enumerate(times)
                if unit is not None and base in _words_of(field, with_onset=with_onset)
            ]
            units |= {place: unit for place in places if (unit := times[place][1]) is not None}
        else:
            names = [plain(column) for column in columns]
            places = [place for place, name in enumerate(names) if name in strong]
            places = places or [place for place, name in enumerate(names) if name in weak]
        if places:
            fields[field] = tuple(places)
    _refuse_two_starts(columns, fields, where)
    _refuse_mistakes(columns, fields, where, with_times=with_times)
    if "file" not in fields:
        raise UserError(_no_file(columns, where))
    return fields, units


def hints(columns: Sequence[str], rest: Sequence[int], fields: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    """Hints about columns that may be meant for a field that the table lacks.

    Args:
        columns: all names.
        rest: places of those that are not a field.
        fields: the fields of the table.
    """
    return tuple(
        f"column {columns[place]!r} may be meant for {WORDS[field]}: rename it to {field!r} then"
        for field, maybe in _MAYBE.items()
        for place in rest
        if field not in fields and plain(columns[place]) in maybe and not (field == "duration" and "end" in fields)
    )


def time_of(name: str) -> tuple[str, float | None]:
    """A plain name without the unit of a time, and the unit, s: 1.0 where there is none, None where it is unknown.

    >>> time_of("startms"), time_of("offset"), time_of("endsamples"), time_of("lengthms"), time_of("length")
    (('start', 0.001), ('offset', 1.0), ('end', None), ('length', 0.001), ('length', None))
    """
    times = {word for field in TIMES for word in COLUMNS[field][0]}
    if name in times:
        return name, 1.0
    for unit, seconds in (*_UNITS.items(), *dict.fromkeys(_OTHER_UNITS).items()):
        for ending in (unit, f"in{unit}"):
            base = name.removesuffix(ending)
            if base != name and (base in times or (base in _LENGTHS_IN_UNITS and seconds and ending != "s")):
                return base, seconds
    return name, None


def _time_of_column(column: str) -> tuple[str, float | None]:
    """Like `time_of`; `length_s` has a unit, the plural `lengths` has none."""
    name = plain(column)
    base = name.removesuffix("s")
    if base != name and base in _LENGTHS_IN_UNITS and re.search(r"[\W_]s\W*$", column, re.IGNORECASE):
        return base, 1.0
    return time_of(name)


def _words_of(field: str, *, with_onset: bool) -> list[str]:
    """Names of a time: `offset` is the end where there is an `onset`; `length` counts where its unit is known."""
    words = [word for word in COLUMNS[field][0] if word != "offset"]
    words += _LENGTHS_IN_UNITS if field == "duration" else ()
    return [*words, "offset"] if field == ("end" if with_onset else "offset") else words


def _refuse_two_starts(columns: Sequence[str], fields: Mapping[str, tuple[int, ...]], where: str) -> None:
    """`onset` and `offset` are start and end; with a third column `start`, `offset` is ambiguous."""
    starts = [columns[place] for place in fields.get("offset", ())]
    onset = [name for name in starts if time_of(plain(name))[0] in _ONSET]
    other = [name for name in starts if name not in onset]
    ends = [columns[place] for place in fields.get("end", ())]
    if onset and other and any(time_of(plain(name))[0] == "offset" for name in ends):
        raise UserError(
            f"{where}: columns {other[0]!r} and {onset[0]!r} both mean the start; rename one of them, for example "
            f"{other[0]!r} to 'other_{other[0]}'"
        )


def _refuse_mistakes(
    columns: Sequence[str], fields: Mapping[str, tuple[int, ...]], where: str, *, with_times: bool
) -> None:
    """A time in a unit that is not read, or a misspelt name, where the field is missing otherwise."""
    taken = {place for places in fields.values() for place in places}
    rest = [column for place, column in enumerate(columns) if column and place not in taken]
    found: dict[str, str] = {}
    for field, (strong, _) in COLUMNS.items():
        for column in rest if field not in fields and (with_times or field not in TIMES) else ():
            name = plain(column)
            base, unit = time_of(name)
            other_unit = field in TIMES and base != name and base in strong and unit is None
            some_length = field == "duration" and name in _LENGTHS and "offset" in fields and "end" not in fields
            if other_unit or some_length:
                right = base if other_unit else "duration"
                found.setdefault(
                    column,
                    f"column {column!r} is not used, as its unit is not known; give seconds and call it "
                    f"{right!r} (or '{right}_ms'), or rename it to 'other_{column}'",
                )
            word = next((word for word in strong if _one_slip(name, word)), None)
            if word is not None:
                found.setdefault(
                    column,
                    f"column {column!r} is not used and looks like {word!r}; rename it to {word!r}, or to "
                    f"'other_{column}' if it is something else",
                )
    if found:
        raise UserError(f"{where}: {'; '.join(found.values())}")


def _one_slip(name: str, word: str) -> bool:
    """Whether two names differ by one letter that is left out, added, replaced, or exchanged with its neighbour."""
    if name == word or name[:1] != word[:1] or min(len(name), len(word)) < 4 or max(len(name), len(word)) < 5:
        return False  # shorter names are one letter away from too many words
    start = 0
    while start < min(len(name), len(word)) and name[start] == word[start]:
        start += 1
    one, other = name[start:], word[start:]
    if one[:1].isdigit():  # `split2` is no misspelling
        return False
    return other[1:] in (one[1:], one) or one[1:] == other or (one[:2] == other[1::-1] and one[2:] == other[2:])


def _no_file(columns: Sequence[str], where: str) -> str:
    named = ", ".join(name for name in columns if name) or "none"
    header = any(re.search(r"\.(wav|flac|ogg|opus|mp3|m4a)$", name, re.IGNORECASE) for name in columns)
    hint = "; the first line must name the columns" if header else ""
    first = columns[0] if columns else ""
    if re.fullmatch(r"sep=.?", first, re.IGNORECASE):
        hint = "; the first line is for Excel alone ('sep='): delete it"
    elif first.startswith(("#", "//")):
        hint = "; the first line is a comment: delete it, the first line must name the columns"
    elif first.startswith(("{", "[")):
        hint = "; the first line is JSON: call a file with one JSON object per line .jsonl"
    return f"{where}: no column names the file ('file_name', 'audio', 'path' …); there are: {named}{hint}"
