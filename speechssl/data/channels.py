"""Tables that describe single channels of a file, which cannot be read: the mean of all channels is."""

import functools
import re
from collections.abc import Mapping, Sequence

from speechssl.config import UserError
from speechssl.data.values import Extra, name_of, shown

_ALL = frozenset({"average", "mean", "all", "mono", "mix", "both"})
_ONE = re.compile(r"\d{1,2}|[a-h]|l|r|left|right|(?:channel|chan|ch)[ _-]?\d{1,2}", re.IGNORECASE)
_NAMES = re.compile(r"(audio|file|wav|recording)?(channel|chan|ch)(id|number|num|no|nr|index|name|selector)?")


def channels_of(place: str) -> int:
    """Number of channels of the audio of a location; 1 where it cannot be read, for which packing gives the reason."""
    from speechssl.audio import AudioError, probe  # here: tables without such a column need no soundfile
    from speechssl.data.members import local_file

    try:
        with local_file(place) as file:
            return probe(file).channels
    except AudioError:
        return 1


class OneChannel:
    """Refuses a table that names several channels of one file, or one channel of a file with several.

    >>> rows = OneChannel(("file", "Channel"))
    >>> rows.check("a.wav", {"Channel": "A"}, "t.csv:2")
    >>> rows.check("a.wav", {"Channel": "B"}, "t.csv:3")
    Traceback (most recent call last):
    speechssl.config.UserError: t.csv:3: column 'Channel' is 'B' and was 'A' before for the same file, of which ...
    """

    def __init__(self, columns: Sequence[str]):
        self._column = next((name for name in columns if _NAMES.fullmatch(_plain(name))), None)
        self._first: dict[str, str] = {}  # of each file, where there is such a column
        self._count = functools.lru_cache(maxsize=16)(channels_of)  # the stretches of a file are adjacent

    def check(self, file: str, extras: Mapping[str, Extra], where: str, *, place: str | None = None) -> None:
        """Checks a row.

        Args:
            file: the file that it names.
            extras: its columns that are not a field.
            where: table and line, for the message.
            place: the location of its audio, whose channels are counted where the row names one; None: they are not.

        Raises:
            UserError: an earlier row names another channel of the file, or this row names one of several.
        """
        value = extras.get(self._column) if self._column is not None else None
        if value is None:
            return
        now, first = shown(value), self._first.setdefault(file, shown(value))
        way = (
            "the mean of all channels would be read; write each channel to a file of its own, or rename the column to "
            f"'other_{self._column}' if it is something else"
        )
        if now != first:
            raise UserError(
                f"{where}: column {self._column!r} is {now} and was {first} before for the same file, of which {way}"
            )
        if place is not None and (count := self.left_out(extras, place)):
            raise UserError(
                f"{where}: column {self._column!r} is {now}, and the file has {count} channels, of which {way}"
            )

    def left_out(self, extras: Mapping[str, Extra], place: str) -> int:
        """Number of channels of a file of which a row names some; 0 where it names none or all."""
        value = extras.get(self._column) if self._column is not None else None
        text = name_of(value) if value is not None else None
        selects = self._column is not None and _plain(self._column).endswith("selector")
        if text is None or text.lower() in _ALL or not (selects or _ONE.fullmatch(text)):
            return 0
        count = self._count(place)
        return count if count > 1 else 0


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())
