"""Transcripts: their normalisation and the character vocabulary of CTC.

The vocabulary is that of wav2vec 2.0's fine-tuning (Baevski et al. 2020, section 4.2, arXiv 2006.11477): characters and
a word boundary, with CTC's blank at index 0.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

BLANK = "<blank>"  # CTC's "no output"; always index 0
WORD_BOUNDARY = "|"  # stands for the space between words, as in fairseq's letter dictionaries

# What people type for an apostrophe: typographic quotes, modifier letter, prime, grave and acute accent.
_APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u201b\u02bc\u2032`\u00b4", "'"))
_LONE_APOSTROPHE = re.compile(r"(?<!\w)'|'(?!\w)")


def normalize_transcript(text: str) -> str:
    """A transcript as the words that are heard: lower case, no punctuation, single spaces.

    Letters, their combining marks and digits of every script stay. An apostrophe stays inside a word; every other
    character separates words. Compatibility forms (ligatures, full-width letters) become plain ones (Unicode NFKC).
    Numbers are not spelled out.

    >>> normalize_transcript("  «It’s», she said, a well-known “café”…")
    "it's she said a well known café"
    >>> normalize_transcript("Ёлка, 2 шт.")
    'ёлка 2 шт'
    """
    # Apostrophes first: NFKC takes the acute accent apart into a space and a combining mark.
    plain = unicodedata.normalize("NFKC", text.translate(_APOSTROPHES)).lower()
    plain = unicodedata.normalize("NFKC", plain)  # some pairs compose in lower case only, as ǰ
    kept = "".join(c if c == "'" or unicodedata.category(c)[0] in "LMN" else " " for c in plain)
    return " ".join(_LONE_APOSTROPHE.sub(" ", kept).split())


@dataclass(frozen=True)
class Vocabulary:
    """Symbols and their indices.

    Attributes:
        symbols: index to symbol; the blank first, then the word boundary, then single characters.

    Raises:
        ValueError: other symbols in front, a repeated symbol, or one that is not a single character.

    >>> vocabulary = Vocabulary.from_texts(["a cab"])
    >>> vocabulary.symbols
    ('<blank>', '|', 'a', 'b', 'c')
    >>> vocabulary.encode("a cab")
    [2, 1, 4, 2, 3]
    """

    symbols: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.symbols[:2] != (BLANK, WORD_BOUNDARY):
            raise ValueError(f"the first symbols must be {BLANK!r} and {WORD_BOUNDARY!r}, got {self.symbols[:2]}")
        if len(set(self.symbols)) < len(self.symbols):
            repeated = sorted({symbol for symbol in self.symbols if self.symbols.count(symbol) > 1})
            raise ValueError(f"repeated symbols: {repeated}")
        odd = [symbol for symbol in self.symbols[2:] if len(symbol) != 1 or symbol.isspace()]
        if odd:
            raise ValueError(f"symbols must be single characters and no spaces, got {odd}")

    def __len__(self) -> int:
        return len(self.symbols)

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> "Vocabulary":
        """The vocabulary of all characters in the texts, in the order of their code points.

        Args:
            texts: normalised transcripts.

        Raises:
            ValueError: a text holds the word boundary's own character.
        """
        characters = {character for text in texts for character in text if not character.isspace()}
        if WORD_BOUNDARY in characters:
            raise ValueError(f"{WORD_BOUNDARY!r} stands for the word boundary; normalise the transcripts first")
        return cls((BLANK, WORD_BOUNDARY, *sorted(characters)))

    def encode(self, text: str) -> list[int]:
        """Indices of a transcript's characters; every run of spaces is one word boundary, none at the ends.

        Args:
            text: a normalised transcript.

        Raises:
            ValueError: a character is not in the vocabulary (all such are named).

        >>> Vocabulary.from_texts(["a"]).encode("abc")
        Traceback (most recent call last):
            ...
        ValueError: not in the vocabulary: 'b', 'c'
        """
        index = {symbol: number for number, symbol in enumerate(self.symbols)}
        words = text.split()
        unknown = {c for word in words for c in word if c == WORD_BOUNDARY or c not in index}
        if unknown:
            raise ValueError(f"not in the vocabulary: {', '.join(map(repr, sorted(unknown)))}")
        return [index[character] for character in WORD_BOUNDARY.join(words)]

    def decode(self, indices: Sequence[int], *, collapse: bool = False) -> str:
        """The transcript of a sequence of indices.

        Args:
            indices: one a character, or one a frame with `collapse`.
            collapse: CTC's rule (Graves et al. 2006, section 3.1): repeated symbols become one, then blanks go.

        Raises:
            ValueError: an index outside the vocabulary.

        >>> Vocabulary.from_texts(["ab"]).decode([2, 2, 0, 2, 1, 1, 3], collapse=True)
        'aa b'
        """
        wrong = sorted({int(index) for index in indices if not 0 <= index < len(self.symbols)})
        if wrong:
            raise ValueError(f"indices must be 0 to {len(self.symbols) - 1}, got {wrong}")
        if collapse:
            indices = [index for place, index in enumerate(indices) if place == 0 or index != indices[place - 1]]
        characters = (self.symbols[index] for index in indices if index != 0)
        return " ".join("".join(characters).replace(WORD_BOUNDARY, " ").split())
