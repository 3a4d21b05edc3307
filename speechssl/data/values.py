"""Values of tables and manifests in one form: missing values, names, texts, seconds.

pandas writes a missing value as NaN or null in JSON, as an empty cell in CSV, and as `nan`, `<NA>` or `NaT` where a
column was converted to text before; Excel writes `#N/A`, C `-nan`. All of these are missing here, in every field. `NA`,
`None` and `null` in a text cell may be words (Namibia, a class called None): they are kept, and counted in `findings`.
Any other error of a spreadsheet, such as `#REF!` or `#NAME?`, is refused where a name or a text is expected.
"""

import json
import math
import re
import unicodedata
from collections.abc import Iterable
from decimal import Decimal

MISSING_WORDS = frozenset(
    {"", "nan", "NaN", "NAN", "-nan", "-NaN", "<NA>", "NaT"}
    | {"1.#QNAN", "-1.#QNAN", "1.#IND", "-1.#IND"}  # Windows' C library
    | {"#N/A", "#N/A N/A", "#NV", "#N/D", "#N/B", "#I/T", "#YOK", "#\u041d/\u0414"}  # spreadsheets, in their languages
)
DOUBTFUL_WORDS = frozenset(
    {"NA", "N/A", "n/a", "na", "N.A.", "n.a.", "#NA", "None", "none", "NONE", "NULL", "Null", "null", "Nil", "nil"}
    | {"NIL", "(null)", "(none)", "<null>", "<none>", "(empty)", "(blank)", "\\N", "undefined"}
    | {"-", "--", "\u2013", "\u2014", ".", "?"}
)
"""Words that are sometimes written for a missing value; here they are words."""

# Left by editors and copied text: zero-width space, marks of direction, word joiner, byte order mark.
_INVISIBLE = "\u200b\u200e\u200f\u2060\ufeff"
# `#REF!`, `#DIV/0!`, `#NAME?`, the same in other languages (`#BEZUG!`), and the numbered errors of LibreOffice.
_SHEET_ERROR = re.compile(r"#[\u00a1\u00bf]?[^\W\d_]\w*(?:/\w+)*[!?]|#GETTING_DATA")
_CONTROL = re.compile(r"[\0-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]")  # Unicode's category Cc without what separates words
Extra = str | int | float | bool | None

_WHOLE = re.compile(r"(-?(?:0|[1-9]\d*))\.0+")
_TIMEDELTA = re.compile(r"(-?\d+) days?(?: \+?(\d{1,2}):(\d{2}):(\d{2}(?:\.\d+)?))?")
_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2}(?:\.\d+)?)")
_SEPARATORS = r"\s_\-\u2010-\u2015\u2212"  # blanks, hyphens, underscores
_BETWEEN = re.compile(rf"(?<=([^{_SEPARATORS}]))[{_SEPARATORS}]+(?=([^{_SEPARATORS}]))")
_NUMBERED = re.compile(r"([^\W\d]+)0+(\d+)")  # P01, speaker007
_TURKISH = str.maketrans({"\u0131": "i", "\u0130": "i"})  # dotless i and the capital of i
_LONGEST_NUMBER = 20  # characters; a longer text is not a number
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")


def is_missing(value: object) -> bool:
    """Whether a value means a missing one.

    >>> [is_missing(each) for each in (None, float("nan"), " ", "NaN", "<NA>", 0, "NA", "none")]
    [True, True, True, True, True, False, False, False]
    """
    if value is None:
        return True
    if isinstance(value, str):
        return stripped(value) in MISSING_WORDS
    return isinstance(value, float) and math.isnan(value)


def count_missing(value: object, counts: dict[str, int]) -> None:
    """Counts a text for a missing value, such as `nan`; an empty one is not counted.

    >>> counts = {}
    >>> for value in ("nan", " nan ", "", None, "NA", "<NA>"):
    ...     count_missing(value, counts)
    >>> counts
    {'nan': 2, '<NA>': 1}
    """
    if isinstance(value, str) and (word := stripped(value)) and word in MISSING_WORDS:
        counts[word] = counts.get(word, 0) + 1


def stripped(text: str) -> str:
    r"""A text in form NFC without blanks and invisible characters at its ends, and without NUL characters behind it.

    Fields of a fixed width, as MATLAB and C write them, are filled up with NUL.

    >>> stripped("\ufeff joy\u200b\xa0"), stripped("joy\0\0 \0")
    ('joy', 'joy')
    """
    text = text.strip()
    while text.endswith("\0"):
        text = text.rstrip("\0").rstrip()
    if text.isascii():
        return text
    while (inner := text.strip(_INVISIBLE).strip().rstrip("\0")) != text:
        text = inner
    return composed(text)


def composed(text: str) -> str:
    """A text in Unicode's form NFC, in which an equal text has equal characters.

    >>> composed("fro\u0308hlich") == "fr\u00f6hlich"
    True
    """
    return text if text.isascii() or unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)


def readable(text: str) -> str:
    r"""A text that UTF-8 can hold: bytes of a file's name that are not UTF-8 are written as escapes.

    >>> readable("caf\udce9.wav")
    'caf\\xe9.wav'
    """
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def is_sheet_error(text: str) -> bool:
    """Whether a cell holds the error of a spreadsheet instead of a value.

    >>> [is_sheet_error(each) for each in ("#REF!", "#DIV/0!", "#WERT!", "#NAME?", "Err:502", "#tag!", "# HI!", "#1")]
    [True, True, True, True, True, False, False, False]
    """
    if text.startswith("Err:"):
        return len(text) == 7 and text[4:].isdecimal()
    return text.startswith("#") and text == text.upper() and _SHEET_ERROR.fullmatch(text) is not None


def is_doubtful(text: str) -> bool:
    """Whether a text may be meant for a missing value: one of `DOUBTFUL_WORDS`, or a cell that was too narrow.

    >>> [is_doubtful(each) for each in ("NA", "null", "-", "####", "nah")]
    [True, True, True, True, False]
    """
    return text in DOUBTFUL_WORDS or (len(text) > 2 and text.strip("#") == "")


def name_of(value: object) -> str | None:
    """A label, speaker or other name: stripped, in NFC, a whole number without a fraction; None where it is missing.

    Raises:
        ValueError: a list, an object, an infinite number, an error of a spreadsheet, or a control character in it.

    >>> [name_of(each) for each in (1, 1.0, "1", "1.0", "007", 2.5, True, " a ", float("nan"))]
    ['1', '1', '1', '1', '007', '2.5', 'true', 'a', None]
    """
    text = text_of(value)
    if text is not None and not text.isprintable() and (control := _CONTROL.search(text)):
        raise ValueError(f"given {shown(text)}, with the control character U+{ord(control[0]):04X}; remove it")
    if text is not None and (whole := _WHOLE.fullmatch(text)):
        return "0" if whole[1] == "-0" else whole[1]
    return text


def alike(name: str) -> str:
    r"""Key that is equal for names that probably mean one.

    Capitals (also those of Turkish), width, invisible characters, and the way a number is written do not count. Blanks,
    hyphens and underscores within a name do not count either; between two digits only which of them it is does not.

    >>> [alike(name) for name in ("Joy", "\uff2aoy", "jo\xady", "007", "+7", "7.0", "1.50", "a1", "-0")]
    ['joy', 'joy', 'joy', '7', '7', '7', '1.5', 'a1', '0']
    >>> [alike(name) for name in ("Anna  Lee", "anna_lee", "annalee", "-5", "P 01", "p-1", "1-12", "11_2", "s1_1")]
    ['annalee', 'annalee', 'annalee', '-5', 'p1', 'p1', '1 12', '11 2', 's1 1']
    >>> alike("\u0130PEK"), alike("IRMAK"), alike("\u0131rmak")
    ('ipek', 'irmak', 'irmak')
    """
    text = name
    if not name.isascii():
        text = unicodedata.normalize("NFKC", "".join(each for each in name if unicodedata.category(each) != "Cf"))
    text = text.strip()
    if len(text) <= _LONGEST_NUMBER and _NUMBER.fullmatch(text) and (number := Decimal(text)).is_finite():
        return (
            "0" if number == 0 else format(number.normalize(), "E" if abs(number.adjusted()) > _LONGEST_NUMBER else "f")
        )
    text = _BETWEEN.sub(lambda found: " " if found[1].isdecimal() and found[2].isdecimal() else "", folded(text))
    numbered = _NUMBERED.fullmatch(text)
    return text if numbered is None else numbered[1] + numbered[2]


def folded(name: str) -> str:
    """A name in the form that is compared where capitals do not count.

    Turkish has two letters i, and the capital of each is a capital of the other elsewhere: all four are one here.

    >>> folded("Stra\u00dfe"), folded("E\u0301") == folded("\u00e9"), folded("\u0130PEK"), folded("\u0131rmak")
    ('strasse', True, 'ipek', 'irmak')
    """
    if name.isascii():
        return name.lower()
    return composed(composed(composed(name).translate(_TURKISH).casefold()).replace("i\u0307", "i"))


def merged(names: Iterable[str | None]) -> list[str | None]:
    """Each name, or the first by order of those that are `alike`.

    For names that must be kept apart, such as speakers of training and test: two spellings may be one person.

    >>> merged(["anna", "Ben", None, "Anna"])
    ['Anna', 'Ben', None, 'Anna']
    """
    given = list(names)
    first: dict[str, str] = {}
    for name in sorted({name for name in given if name is not None}):
        first.setdefault(alike(name), name)
    return [None if name is None else first[alike(name)] for name in given]


def text_of(value: object) -> str | None:
    """A text: stripped, in NFC; None where it is missing.

    Raises:
        ValueError: a list, an object, an infinite number, or an error of a spreadsheet.
    """
    if is_missing(value):
        return None
    if isinstance(value, str):
        text = stripped(value)
        if is_sheet_error(text):
            raise ValueError(f"given {shown(text)}, an error of a spreadsheet; correct the cell, or leave it empty")
        return text
    if isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() else repr(value)
    raise ValueError(f"given {shown(value)}, allowed: one text or number")


def extra_of(value: object) -> Extra:
    """Any other value: text in NFC, numbers as they are, lists and objects as JSON text; None where it is missing."""
    if is_missing(value):
        return None
    if isinstance(value, str):
        return stripped(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no such number
    if isinstance(value, int | float):
        return value
    return json.dumps(value, ensure_ascii=False)


def json_number(value: float) -> float | None:
    """A number that JSON supports: None for infinity and NaN.

    >>> json_number(1.5), json_number(math.inf)
    (1.5, None)
    """
    return value if math.isfinite(value) else None


def extra_text(value: Extra) -> str:
    """An extra as text, in the form that it has as a label.

    >>> [extra_text(each) for each in (True, 1.0, 2.5, "x")]
    ['true', '1', '2.5', 'x']
    """
    return value if isinstance(value, str) else name_of(value) or ""


def seconds_of(value: object, *, unit: float = 1.0) -> float | None:
    """A time, s: a number, a number as text, `h:mm:ss.fff`, `m:ss.fff`, or pandas' `0 days 00:00:03.5`.

    Args:
        value: the value.
        unit: seconds in a plain number: 0.001 for milliseconds.

    Returns:
        Seconds; None where the value is missing.

    Raises:
        ValueError: anything else, a negative or an infinite time.

    >>> [seconds_of(each) for each in (3, "2.5", "00:01:02.500", "1:02", "0 days 00:00:03.5", "NaT")]
    [3.0, 2.5, 62.5, 62.0, 3.5, None]
    >>> seconds_of("1500", unit=0.001)
    1.5
    """
    if is_missing(value) and not (isinstance(value, str) and value.strip().startswith("#")):  # `#N/A` is an error here
        return None
    found = _seconds(value, unit)
    if not math.isfinite(found) or found < 0:
        hint = " with a decimal point" if isinstance(value, str) and "," in value else ""
        word = "milliseconds" if unit == 0.001 else "seconds"
        if isinstance(value, str) and (is_doubtful(value.strip()) or value.strip().startswith("#")):
            hint = "; leave it empty where nothing is known"
        raise ValueError(f"given {shown(value)}, allowed: {word}, 0 or more{hint}")
    return found


def _seconds(value: object, unit: float) -> float:
    """Seconds of a text; NaN where it is no time."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return math.nan
    if not isinstance(value, str):
        return _scaled(float(value) if abs(value) < 1e300 else math.inf, unit)
    text = value.strip()
    if _NUMBER.fullmatch(text):
        return _scaled(float(text), unit)
    if days := _TIMEDELTA.fullmatch(text):
        return 86400.0 * int(days[1]) + 3600 * int(days[2] or 0) + 60 * int(days[3] or 0) + float(days[4] or 0)
    if (clock := _CLOCK.fullmatch(text)) and float(clock[3]) < 60 and (clock[1] is None or int(clock[2]) < 60):
        return 3600.0 * int(clock[1] or 0) + 60 * int(clock[2]) + float(clock[3])
    return math.nan


def _scaled(number: float, unit: float) -> float:
    return number if unit == 1.0 else number / round(1 / unit)  # 1500 / 1000 is exact, 1500 * 0.001 is not


def shown(value: object) -> str:
    """A value for a message: its `repr`, cut after 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
