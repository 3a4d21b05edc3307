"""Errors for files that cannot be used and warnings for doubtful ones, each in one line."""

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


class AudioWarning(UserWarning):
    """A file that is used with a change; `str()` is "PATH: what was done" in one line."""

    def __init__(self, path: str | Path, note: str) -> None:
        super().__init__(f"{printable(str(path))}: {note}")


# The names under which callers import them; tracebacks show the same.
AudioError.__module__ = AudioWarning.__module__ = "speechssl.audio"


def printable(text: str) -> str:
    """Text in one line, with control characters and undecodable bytes escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
