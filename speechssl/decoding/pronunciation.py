"""Pronunciations of English words in phones: CMU's dictionary, and spelling rules for words that it lacks.

The dictionary is the one of the `pocketsphinx` package (extra `lm`): 126,000 words, 39 phones of ARPAbet without
stress. Words outside of it:

1. a possessive or a contraction with 's has the base word's pronunciation and S, Z or IH Z, as the last phone demands;
2. a word without a vowel letter (`xkcd`) is spelled out with the names of its letters;
3. else letters are read from left to right by `RULES`, the longest first; an e at the end is silent after a consonant
   where there is another vowel, and doubled consonants are one.

The phone error rate of `RULES` is .27 on 3,000 words of the dictionary itself. For a word that it lacks this is closer
than no entry: a recogniser with a lexicon can only write words that have one.
"""

import unicodedata
from collections.abc import Iterable
from functools import lru_cache

from speechssl.config import UserError
from speechssl.decoding.general import NO_ENGLISH, dictionary_file

Phones = tuple[str, ...]

LETTERS = {
    "a": "EY",
    "b": "B IY",
    "c": "S IY",
    "d": "D IY",
    "e": "IY",
    "f": "EH F",
    "g": "JH IY",
    "h": "EY CH",
    "i": "AY",
    "j": "JH EY",
    "k": "K EY",
    "l": "EH L",
    "m": "EH M",
    "n": "EH N",
    "o": "OW",
    "p": "P IY",
    "q": "K Y UW",
    "r": "AA R",
    "s": "EH S",
    "t": "T IY",
    "u": "Y UW",
    "v": "V IY",
    "w": "D AH B AH L Y UW",
    "x": "EH K S",
    "y": "W AY",
    "z": "Z IY",
}
RULES = {
    "tion": "SH AH N",
    "sion": "ZH AH N",
    "ture": "CH ER",
    "tch": "CH",
    "igh": "AY",
    "eau": "OW",
    "sch": "SH",
    "ch": "CH",
    "sh": "SH",
    "th": "TH",
    "ph": "F",
    "wh": "W",
    "ck": "K",
    "qu": "K W",
    "ng": "NG",
    "gh": "",
    "ee": "IY",
    "ea": "IY",
    "ie": "IY",
    "ei": "EY",
    "ey": "IY",
    "oo": "UW",
    "ou": "AW",
    "ow": "OW",
    "oa": "OW",
    "ai": "EY",
    "ay": "EY",
    "oi": "OY",
    "oy": "OY",
    "au": "AO",
    "aw": "AO",
    "eu": "UW",
    "ew": "UW",
    "ue": "UW",
    "er": "ER",
    "ir": "ER",
    "ur": "ER",
    "ar": "AA R",
    "or": "AO R",
    "ce": "S",
    "ci": "S IH",
    "cy": "S IY",
    "ge": "JH",
    "gi": "JH IH",
    "gy": "JH IY",
    "a": "AE",
    "b": "B",
    "c": "K",
    "d": "D",
    "e": "EH",
    "f": "F",
    "g": "G",
    "h": "HH",
    "i": "IH",
    "j": "JH",
    "k": "K",
    "l": "L",
    "m": "M",
    "n": "N",
    "o": "AA",
    "p": "P",
    "q": "K",
    "r": "R",
    "s": "S",
    "t": "T",
    "u": "AH",
    "v": "V",
    "w": "W",
    "x": "K S",
    "y": "IY",
    "z": "Z",
}
_VOWELS = frozenset("aeiouy")
_HISSING = frozenset(["S", "Z", "SH", "ZH", "CH", "JH"])
_VOICELESS = frozenset(["P", "T", "K", "F", "TH"])
_LONGEST = max(map(len, RULES))


def pronunciations(words: Iterable[str]) -> dict[str, list[Phones]]:
    """Pronunciations of each word, the usual one first.

    Args:
        words: normalised ones; letters of the English alphabet, with or without accents, and apostrophes.

    Raises:
        UserError: the package of the dictionary is not installed, or a word has other characters, or no letter.
    """
    known = _dictionary()
    plain = {word: without_accents(word) for word in words}
    return {word: known.get(word) or known.get(bare) or [_by_rule(bare, known)] for word, bare in plain.items()}


def has_pronunciation(word: str) -> bool:
    """Whether a word is in the dictionary, or made of the letters a to z and apostrophes, with a letter in it.

    Raises:
        UserError: the package of the dictionary is not installed.
    """
    known, bare = _dictionary(), without_accents(word)
    return word in known or bare in known or _is_spelled(bare)


def without_accents(word: str) -> str:
    """A word with its accented letters as plain ones.

    >>> without_accents("café"), without_accents("straße")
    ('cafe', 'straße')
    """
    return "".join(c for c in unicodedata.normalize("NFKD", word) if not unicodedata.combining(c))


def _is_spelled(word: str) -> bool:
    letters = set(word) - {"'"}
    return bool(letters) and letters <= LETTERS.keys()


def spelled(word: str) -> Phones:
    """Phones of a word by the rules of spelling alone, the third of the head of this file.

    >>> spelled("chapter"), spelled("grime")
    (('CH', 'AE', 'P', 'T', 'ER'), ('G', 'R', 'IH', 'M'))
    """
    letters = "".join(
        c for place, c in enumerate(word) if c in LETTERS and (c in _VOWELS or word[place - 1 : place] != c)
    )
    if len(letters) > 2 and letters[-1] == "e" and letters[-2] not in _VOWELS and _VOWELS & set(letters[:-1]):
        letters = letters[:-1] if letters[-2] not in "cg" else letters
    found: list[str] = []
    place = 0
    while place < len(letters):
        size = next(n for n in range(_LONGEST, 0, -1) if letters[place : place + n] in RULES)
        found += RULES[letters[place : place + size]].split()
        place += size
    return tuple(found)


def _by_rule(word: str, known: dict[str, list[Phones]]) -> Phones:
    if not _is_spelled(word):
        raise UserError(f"{word!r} has no pronunciation: not made of the letters a to z; write numbers as words")
    letters = [c for c in word if c in LETTERS]
    base, mark, last = word.rpartition("'")
    if mark and base and last in ("s", ""):
        stem = (known.get(base) or [_by_rule(base, known)])[0]
        if stem[-1] in _HISSING:
            return (*stem, "IH", "Z") if last else stem
        return (*stem, "S" if stem[-1] in _VOICELESS else "Z")
    if not _VOWELS.intersection(letters):
        return tuple(phone for letter in letters for phone in LETTERS[letter].split())
    return spelled(word) or tuple(phone for letter in letters for phone in LETTERS[letter].split())


@lru_cache(maxsize=1)
def _dictionary() -> dict[str, list[Phones]]:
    path = dictionary_file()
    if path is None:
        raise UserError(NO_ENGLISH.replace("language model", "dictionary of pronunciations"))
    found: dict[str, list[Phones]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, _, phones = line.partition(" ")
        if phones:
            found.setdefault(name.split("(")[0], []).append(tuple(phones.split()))  # read(2): another one of "read"
    return found
