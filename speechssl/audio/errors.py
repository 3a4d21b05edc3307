"""Errors of files that cannot be used."""

from pathlib import Path

from speechssl.config import UserError


class AudioError(UserError):
    """A file that cannot be used; `str()` is "PATH: reason" in one line.

    Attributes:
        path: the file as the caller named it.
        reason: why, in one line.
    """

    def __init__(self, path: str | Path, reason: str) -> None:
        self.path = str(path)
        self.reason = " ".join(reason.split())
        super().__init__(f"{printable(self.path)}: {self.reason}")

    def __reduce__(self) -> tuple[type["AudioError"], tuple[str, str]]:
        return AudioError, (self.path, self.reason)  # errors cross processes


# The name under which callers import it; tracebacks show the same.
AudioError.__module__ = "speechssl.audio"


def printable(text: str) -> str:
    """The text with control characters and undecodable bytes escaped, so that it stays one line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
