"""Phones as the symbols of a recogniser of English, with words as their spellings.

English letters say little about sounds (`though`, `through`, `tough`): with ten minutes of labels phones are learnt
better. Transcripts are turned into phones by :mod:`speechssl.decoding.pronunciation`, word by word, and a beam search
with a lexicon turns phones back into words. Each phone is one character, the one-letter form of ARPAbet.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from speechssl.decoding.pronunciation import Phones, has_pronunciation, pronunciations
from speechssl.text import BLANK, WORD_BOUNDARY, Vocabulary

ONE_LETTER = {
    "AA": "a",
    "AE": "@",
    "AH": "A",
    "AO": "c",
    "AW": "W",
    "AY": "Y",
    "B": "b",
    "CH": "C",
    "D": "d",
    "DH": "D",
    "EH": "E",
    "ER": "R",
    "EY": "e",
    "F": "f",
    "G": "g",
    "HH": "h",
    "IH": "I",
    "IY": "i",
    "JH": "J",
    "K": "k",
    "L": "l",
    "M": "m",
    "N": "n",
    "NG": "G",
    "OW": "o",
    "OY": "O",
    "P": "p",
    "R": "r",
    "S": "s",
    "SH": "S",
    "T": "t",
    "TH": "T",
    "UH": "U",
    "UW": "u",
    "V": "v",
    "W": "w",
    "Y": "y",
    "Z": "z",
    "ZH": "Z",
}
SYMBOLS = (BLANK, WORD_BOUNDARY, *sorted(ONE_LETTER.values()))


@dataclass(frozen=True)
class PhoneVocabulary(Vocabulary):
    """Blank, word boundary and 39 phones; transcripts are given in words.

    >>> PhoneVocabulary().written("two ships")
    'tu SIps'
    """

    symbols: tuple[str, ...] = SYMBOLS

    writes_words: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.symbols != SYMBOLS:
            raise ValueError(f"other symbols than the {len(SYMBOLS)} of this version's phones")

    def written(self, text: str) -> str:
        """The transcript in phones, of the usual pronunciation of each word."""
        return " ".join(_spellings(word)[0] for word in text.split())

    def spellings(self, word: str) -> list[str]:
        """The pronunciations of a word, the usual one first."""
        return list(_spellings(word))

    def can_write(self, word: str) -> bool:
        """Whether a word has a pronunciation: it is in the dictionary, or made of the letters a to z."""
        return has_pronunciation(word)

    def encode(self, text: str) -> list[int]:
        """Indices of the phones of a transcript's words, with a boundary between words.

        Raises:
            UserError: the dictionary is not installed, or a word cannot be written.
        """
        return super().encode(self.written(text))


@lru_cache(maxsize=1 << 17)
def _spellings(word: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(map(_letters, pronunciations([word])[word])))


def _letters(phones: Phones) -> str:
    return "".join(ONE_LETTER[phone] for phone in phones)
