"""Warnings about names of one kind that look alike, mix scripts, or were rounded by a spreadsheet."""

import re
import unicodedata
from collections.abc import Sequence

from speechssl.data.splits import split_kind
from speechssl.data.values import alike, folded

_SHOWN = 8  # names in a list
_WORD = re.compile(r"[^\W\d_]+")
_SCRIPTS = frozenset({"LATIN", "CYRILLIC", "GREEK"})  # they share forms of letters
_EXPONENT = re.compile(r"[+-]?(\d)(?:[.,](\d+))?E\+(\d{2,3})")  # 1.23457E+17, in some languages with a comma
_LONG = re.compile(r"\d{15}0{2,}")  # a spreadsheet keeps 15 digits of a number
# Cyrillic and Greek letters whose forms are those of Latin letters.
_LOOKS = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0455\u0458\u0501\u04bb\u03bf"
    "\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0423\u0425\u0406\u0405\u0408"
    "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7",
    "aeopcyxisjdhoABEKMHOPCTYXISJABEZHIKMNOPTYX",
)


class Names:
    """The different names of one kind in a corpus.

    Args:
        field: the kind: label, speaker, language or split.

    >>> names = Names("speaker")
    >>> for name in ("Anna", "7", "anna", "007", "ben"):
    ...     names.add(name)
    >>> names.notes()
    ["speakers may be meant to be the same: 'Anna', 'anna'; '7', '007'"]
    """

    def __init__(self, field: str):
        self.field = field
        self._clips: dict[str, int] = {}

    def __len__(self) -> int:
        """Number of different names."""
        return len(self._clips)

    def add(self, name: str, clips: int = 1) -> None:
        """Count clips of a name."""
        self._clips[name] = self._clips.get(name, 0) + clips

    def notes(self) -> list[str]:
        """Warnings about names that may be mistakes."""
        found: list[str] = []
        if groups := self._groups():
            capitals = all(len(set(map(folded, group))) == 1 for group in groups)
            words = "differ only in capitals" if capitals else "may be meant to be the same"
            found.append(f"{self.field}s {words}: {some([some(list(map(repr, group))) for group in groups], '; ')}")
        if mixed := [f"{name!r} ({letter})" for name in self._clips if (letter := strange_letter(name))]:
            found.append(f"{self.field}s mix letters of two scripts: {some(mixed)}")
        if rounded := [f"{name!r} ({clips} x)" for name, clips in self._clips.items() if looks_rounded(name)]:
            found.append(
                f"{self.field}s look rounded by a spreadsheet: {some(rounded)}; different ones may have become one, so "
                "export the column as text"
            )
        return found

    def _groups(self) -> list[list[str]]:
        """Groups of names that may be meant to be one, in the order of their first clips."""
        of_key: dict[str, list[str]] = {}
        for name in self._clips:
            keys = self._keys(name)
            group = next((of_key[key] for key in keys if key in of_key), [])
            group.append(name)
            for key in keys:
                other = of_key.get(key, group)
                if other is not group:
                    group.extend(other)
                    for each, members in of_key.items():
                        of_key[each] = group if members is other else members
                of_key[key] = group
        groups = {id(group): group for group in of_key.values() if len(group) > 1}
        return list(groups.values())

    def _keys(self, name: str) -> tuple[str, ...]:
        """Key that is equal for names that may mean one; of splits also `val`, `validation` and `valid_set`."""
        if self.field == "split" and (kind := split_kind(name)):
            return (kind,)
        return (alike(name),) if name.isascii() else (alike(name), alike(name.translate(_LOOKS)))


def strange_letter(name: str) -> str | None:
    """The first letter of another script in a word that begins in Latin, Cyrillic or Greek; None where there is none.

    >>> strange_letter("anna"), strange_letter("\u0430nna")
    (None, 'U+0430 CYRILLIC SMALL LETTER A beside LATIN')
    """
    if name.isascii():
        return None
    for word in _WORD.findall(name):
        scripts = [unicodedata.name(letter, "").partition(" ")[0] for letter in word]
        known = [script for script in scripts if script in _SCRIPTS]
        if len(set(known)) > 1:
            rare = min(set(known), key=lambda script: (known.count(script), script == "LATIN"))
            letter = word[scripts.index(rare)]
            beside = next(script for script in known if script != rare)
            return f"U+{ord(letter):04X} {unicodedata.name(letter)} beside {beside}"
    return None


def looks_rounded(name: str) -> bool:
    """Whether a name is a number of which a spreadsheet has kept the first digits.

    >>> [looks_rounded(name) for name in ("1.23457E+17", "1,2E+05", "123456789012345000", "1.5E+01", "1E5", "100000")]
    [True, True, True, False, False, False]
    """
    if found := _EXPONENT.fullmatch(name):
        return len(found[2] or "") < int(found[3])
    return _LONG.fullmatch(name) is not None


def some(names: Sequence[str], separator: str = ", ") -> str:
    """Names in a message, of which the first eight are shown.

    >>> some([f"{number}.csv" for number in range(10)])
    '0.csv, 1.csv, 2.csv, 3.csv, 4.csv, 5.csv, 6.csv, 7.csv and 2 more'
    """
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{separator.join(names[:_SHOWN])}{more}"
