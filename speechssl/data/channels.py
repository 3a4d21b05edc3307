"""Tables that describe single channels of a file, which cannot be read: the mean of all channels is."""

import re
from collections.abc import Mapping, Sequence

from speechssl.config import UserError
from speechssl.data.values import Extra, shown

_NAMES = re.compile(r"(audio|file|wav|recording)?(channel|chan|ch)(id|number|num|no|nr|index|name|selector)?")


class OneChannel:
    """Refuses a table that names several channels of one file.

    >>> rows = OneChannel(("file", "Channel"))
    >>> rows.check("a.wav", {"Channel": "A"}, "t.csv:2")
    >>> rows.check("a.wav", {"Channel": "B"}, "t.csv:3")
    Traceback (most recent call last):
    speechssl.config.UserError: t.csv:3: column 'Channel' is 'B' and was 'A' before for the same file, of which ...
    """

    def __init__(self, columns: Sequence[str]):
        self._column = next((name for name in columns if _NAMES.fullmatch(_plain(name))), None)
        self._first: dict[str, str] = {}  # of each file, where there is such a column

    def check(self, file: str, extras: Mapping[str, Extra], where: str) -> None:
        """Look at a row.

        Args:
            file: the file that it names.
            extras: its columns that are no field.
            where: table and line, for the message.

        Raises:
            UserError: an earlier row names another channel of the file.
        """
        value = extras.get(self._column) if self._column is not None else None
        if value is None:
            return
        now, first = shown(value), self._first.setdefault(file, shown(value))
        if now != first:
            raise UserError(
                f"{where}: column {self._column!r} is {now} and was {first} before for the same file, of which the "
                "mean of all channels would be read; write each channel to a file of its own, or rename the column to "
                f"'other_{self._column}' if it is something else"
            )


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())
