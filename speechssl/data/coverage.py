"""Files that have more audio than their stated durations cover."""

from collections import OrderedDict

_TOLERANCE = 0.05  # s: durations are often rounded to one decimal
_REMEMBERED = 1 << 16  # files that are covered to their end; the rows of one file are adjacent


class Coverage:
    """End of the stretches of each file, compared with its duration.

    >>> coverage = Coverage()
    >>> coverage.add("a.wav", end=3.0, whole=3.8)
    >>> coverage.add("b.wav", end=12.0, whole=12.0)
    >>> coverage.note()
    '1 file has more audio than its stretches cover, 0.8 s in all: a.wav has 3.8 s, its last stretch ends at 3 s'
    """

    def __init__(self) -> None:
        self._short: dict[str, tuple[float, float]] = {}
        self._covered: OrderedDict[str, None] = OrderedDict()

    def add(self, file: str, *, end: float | None, whole: float) -> None:
        """Adds a stretch.

        Args:
            file: its name.
            end: where it ends, s; None: at the end of the file.
            whole: duration of the file, s.
        """
        if end is None or whole - end <= _TOLERANCE:
            self._short.pop(file, None)
            self._covered[file] = None
            if len(self._covered) > _REMEMBERED:
                self._covered.popitem(last=False)
        elif file not in self._covered:
            self._short[file] = (max(end, self._short.get(file, (0.0, 0.0))[0]), whole)

    def note(self) -> str | None:
        """Message about the files with more audio; None where there are none."""
        if not self._short:
            return None
        file, (end, whole) = next(iter(self._short.items()))
        seconds = sum(whole - end for end, whole in self._short.values())
        count = len(self._short)
        words = f"{count} files have more audio than their" if count > 1 else "1 file has more audio than its"
        first = f"{file} has {whole:.5g} s, its last stretch ends at {end:.5g} s"
        return f"{words} stretches cover, {seconds:.5g} s in all: {first}"
