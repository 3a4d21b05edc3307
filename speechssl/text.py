"""Transcripts: their normalisation and the character vocabulary of CTC.

Words are those of Unicode's default word boundaries (Unicode Standard Annex 29, "Unicode Text Segmentation", section
4), by the character data of the `regex` package: it is one wheel of 3 MB, and it has the property `Word_Break` together
with the categories and syllable classes that the exceptions need. (`uniseg` has the boundaries alone in 11 MB of
Python; `PyICU` has to be compiled against ICU.)

The vocabulary is that of wav2vec 2.0's fine-tuning (Baevski et al. 2020, section 4.2, arXiv 2006.11477): characters and
a word boundary, with CTC's blank at index 0.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import regex

BLANK = "<blank>"  # CTC's "no output"; always index 0
WORD_BOUNDARY = "|"  # stands for the space between words, as in fairseq's letter dictionaries

TEXT_RULES = 4
"""Version of `normalize_transcript`; higher when the same text gives other words. Version 1 cut words at everything
that is no letter, mark or digit; version 2 lost the sound marks of half-width kana; version 3 had two forms of Uzbek
and Hawaiian words by what was typed for their apostrophe, and cut Greek ό,τι and Mongolian suffixes. Model folders hold
the version that their transcripts were normalised by."""

# Languages whose I is the capital of ı and whose İ is that of i (Unicode's SpecialCasing.txt has tr and az; Crimean
# Tatar and Gagauz are written with the same letters), as ISO 639 codes, English and own names without diacritics.
_DOTLESS = (
    frozenset(["tr", "tur", "turkish", "turkce", "ota", "crh", "crimean tatar", "qirimtatarca", "qirimtatar tili"])
    | frozenset(
        ["gag", "gagauz", "gagauzca", "az", "aze", "azj", "azb", "azerbaijani", "azeri", "azerbaycan", "azerbaycanca"]
    )
    | frozenset(["azerbaycan dili"])
)
# Languages whose Latin alphabet has ı as well; in Cyrillic and Arabic letters, their usual ones, there is no I.
_DOTLESS_IN_LATIN = frozenset(
    ["kk", "kaz", "kazakh", "tt", "tat", "tatar", "ba", "bak", "bashkir", "kaa", "karakalpak"]
)
# Where an apostrophe is a letter: behind o and g in Uzbek, before a vowel in Polynesian languages.
_UZBEK = frozenset(["uz", "uzb", "uzn", "uzbek", "ozbek", "ozbekcha", "ozbek tili"])
_POLYNESIAN = frozenset(
    ["haw", "hawaiian", "olelo hawaii", "sm", "smo", "samoan", "to", "ton", "tongan", "ty", "tah", "tahitian"]
)

_CATALAN = frozenset(["ca", "cat", "catalan", "catala"])  # where a hyphenation point is typed for that of l·l

# Typed for an apostrophe: typographic quotes, prime, grave and acute accent, Greek elision, Armenian.
_APOSTROPHES = frozenset("'\u2018\u2019\u201b\u2032`\u00b4\u1fbd\u1fbf\u1fef\u1ffd\u055a\uff07\uff40")
_LETTERS_OR_MARKS = "\u02bb\u02bc"  # letters in some languages, an apostrophe in others
_OKINA = "\u02bb"
_STRETCHERS = frozenset("\u0640\u07fa\u180a")  # Arabic tatweel, NKo lajanyalan, Mongolian nirugu: width, no sound
_ZERO_WIDTH_SPACE, _JOINERS = "\u200b", "\u200c\u200d"
_WHOLE = frozenset("\u0e33\u0eb3\u037a")  # Thai and Lao AM, Greek iota below: letters that NFKC takes apart
_GERESH, _GERSHAYIM = "\u05f3", "\u05f4"

_IGNORED = regex.compile(  # without a sound, and not between words: format characters, emoji modifiers, …
    r"[\p{Cf}\p{Default_Ignorable_Code_Point}\p{Me}[\p{WB=Extend}--\p{M}]]", flags=regex.V1
)
_INNER_PUNCTUATION = regex.compile(r"[\u055b\u055c\u055e\u055f]")  # Armenian, on the stressed vowel
_MODIFIER = regex.compile(r"\p{Lm}")
_IS_LETTER = regex.compile(r"\p{WB=ALetter}")

_A = r"[[\p{WB=ALetter}\p{WB=Hebrew_Letter}]&&[\p{L}\p{N}\p{Sk}\u05f3]]"  # letters of alphabets, tone letters
_D = r"\p{Nd}"
_TONES = "\u02d9\ua700-\ua707"  # the light tone of Bopomofo, and Chinese tone corners; no letters in Annex 29
_W = rf"[\p{{L}}\p{{M}}\p{{N}}[\p{{Sk}}&&\p{{WB=ALetter}}]{_JOINERS}{_GERESH}{_TONES}]"
_H = r"\p{WB=Hebrew_Letter}"
_M = rf"[\p{{M}}{_JOINERS}]*+"


def _pattern(text: str) -> "regex.Pattern[str]":
    return regex.compile(text, flags=regex.V1)


_SOUND_MARK = _pattern(r"(?<=[\p{Script=Hiragana}\p{Script=Katakana}])[\u309b\u309c]")  # typed behind its kana
_RAISED = _pattern(rf"(?<={_D})(?=[\u2070\u00b9\u00b2\u00b3\u2074-\u2079\u2080-\u2089])")  # 10² is not 102
_TYPED_AM = _pattern(r"([\u0e4d\u0ecd])([\u0e48-\u0e4b\u0ec8-\u0ecb]?)([\u0e32\u0eb2])")
# Letters without a vowel as they were typed before Unicode 5.1 and 4.1: Malayalam chillus, Bengali khanda ta.
_DEAD_CONSONANTS = {"ണ": "ൺ", "ന": "ൻ", "ര": "ർ", "ല": "ൽ", "ള": "ൾ", "ക": "ൿ", "ত": "ৎ"}
_TYPED_DEAD = _pattern(f"([{''.join(_DEAD_CONSONANTS)}])[\u0d4d\u09cd]\u200d")
_LONE_LIGHT_TONE = _pattern(r"(?<!\p{Script=Bopomofo})\u02d9(?!\p{Script=Bopomofo})")
_CATALAN_POINT = _pattern(r"(?<=[lL])\u2027(?=[lL])")
_MANY_JOINERS = _pattern(rf"([{_JOINERS}])[{_JOINERS}]+")
# A joiner changes how letters are written in cursive and Indic scripts (and, in Bengali, how they are read); elsewhere
# it is a trace of typesetting.
_SHAPED = r"[[\p{jt=D}\p{jt=R}[\p{L}--\p{InSC=Other}]]&&\p{L}]"
_IDLE_JOINER = _pattern(
    rf"(?<!{_SHAPED}\p{{M}}*)[{_JOINERS}]|(?<!\p{{InSC=Virama}}(?=\u200d))[{_JOINERS}](?![[\p{{L}}--{_LETTERS_OR_MARKS}]\p{{M}}])"
)
_BESIDE = rf"[{_W}--[{_LETTERS_OR_MARKS}{_GERESH}]]"
_INNER_LETTER_APOSTROPHE = _pattern(rf"(?<={_BESIDE})[{_LETTERS_OR_MARKS}](?!\p{{M}})(?={_BESIDE})")
_HEBREW_ACRONYM = _pattern(rf"""(?<={_H}{_M})(?:''|["\u201c-\u201f{_GERSHAYIM}])(?={_H})""")
_QUOTED = _pattern(rf"(?<!{_W})'([^']+)'(?!{_W})")
_HEBREW_ABBREVIATION = _pattern(rf"(?<={_H}{_M})['{_LETTERS_OR_MARKS}]")
_LONE_GERESH = _pattern(rf"(?<![{_W}--[\p{{Mn}}{_JOINERS}{_GERESH}]][\p{{Mn}}{_JOINERS}]*){_GERESH}+")
_NEW_SENTENCE = _pattern(r"(?<=\p{Ll}\p{M}*)\.(?=\p{Lu}\p{M}*\p{Ll})")  # a space is missing: "the end.Then"
_HYPHENATION_POINT = _pattern(rf"(?<={_A}{_M})\u2027(?={_A})")
_MONGOLIAN_SPACE = _pattern(r"(?<=\p{Script=Mongolian})\u202f(?=\p{Script=Mongolian})")  # before a suffix
_INNER_OF_UZBEK = _pattern(rf"(?<=[oOgG])['{_LETTERS_OR_MARKS}](?=['{_LETTERS_OR_MARKS}\p{{L}}])")
_LAST_OF_UZBEK = _pattern(rf"(?<=[oOgG])['{_LETTERS_OR_MARKS}]")
_BEFORE_VOWEL = _pattern(rf"['{_LETTERS_OR_MARKS}](?=[aeiouāēīōūAEIOUĀĒĪŌŪ])")
_HO_TI = _pattern(rf"(?<=(?<!{_W})[όὅΌὍ]),(?=[τΤ][ιΙ])").pattern  # ό,τι ("whatever") is one word, ότι another
_WORD = _pattern(
    rf"""(?:[{_W}--[\p{{Mn}}{_JOINERS}]]){_W}*+
    (?:(?:(?<={_W})'(?={_W})
      |(?<={_A}{_M})[.:\u00b7{_GERSHAYIM}](?={_M}{_A})
      |{_HO_TI}
      |(?<={_D}{_M})[.\u066b\p{{WB=MidNum}}](?={_M}{_D})
    ){_W}++)*+""".replace("\n", "").replace(" ", "")
)
_COMBINING = {"\uff9e": "\u3099", "\uff9f": "\u309a", "\u309b": "\u3099", "\u309c": "\u309a"}  # sound marks of kana
_DOTTED = _pattern(r"(?<=\p{Soft_Dotted})\u0307+")


def normalize_transcript(text: str, language: str | None = None) -> str:
    """Normalises a transcript to its spoken words: lower case, no punctuation, single spaces.

    Letters, combining marks, digits, modifier letters and tone letters of every script stay. No word is cut where
    Unicode Standard Annex 29 has no word boundary: apostrophes, the points of Catalan l·l, Finnish eu:n and u.s.a stay
    inside a word, geresh and gershayim in Hebrew ones, and the separators between digits of a number (3.14, 1,000).
    Soft hyphens, word joiners, bidirectional marks, variation selectors and tatweel are removed without cutting the
    word; zero-width joiners stay where they change how letters are written.

    Other than in Annex 29:

    - hyphens, underscores and other connectors, and spaces of every width separate words;
    - a full stop between a small letter and a capitalised word ends a sentence ("the end.Then");
    - Greek ό,τι is one word, and so is a Mongolian word with the narrow space before its suffix;
    - the letter ʻ is an apostrophe inside a word; behind o and g in Uzbek and before a vowel in Hawaiian, Samoan,
      Tongan and Tahitian, whatever is typed for it is ʻ;
    - scripts without spaces (Han, Kana, Thai, Lao, Khmer, Burmese) are not cut into words: a run of letters is one
      word, and the character error rate is the one to read;
    - emoji and other symbols are no words, and a mark without a letter is removed.

    Compatibility forms (ligatures, full-width letters, Arabic presentation forms) become plain ones (Unicode NFKC),
    except superscript modifier letters, which mean something else than plain ones. Sound marks that stand behind their
    kana (ｶﾞ, か゛) are combined with it. Numbers are not spelled out.

    Args:
        text: a transcript.
        language: an ISO 639 code, a language tag or an English name, as a manifest has it ("tr", "tr-TR"), for
            I, which is the capital of ı in Turkish, Azerbaijani, Crimean Tatar and Gagauz, and in Kazakh,
            Karakalpak, Tatar and Bashkir where a tag has the Latin script ("kk-Latn"), and for the apostrophe.

    >>> normalize_transcript("  «It’s», she said, a well-known “café”…")
    "it's she said a well known café"
    >>> normalize_transcript("Ёлка, 2 шт.")
    'ёлка 2 шт'
    >>> normalize_transcript("ISPARTA İli", "tr"), normalize_transcript("El col·legi, 3.14")
    ('ısparta ili', 'el col·legi 3.14')
    """
    plain = unicodedata.normalize("NFC", text)
    name, _ = _language(language)
    if not plain.isascii() or "`" in plain or name in _UZBEK or name in _POLYNESIAN:
        plain = _MONGOLIAN_SPACE.sub("", plain)
        plain = _SOUND_MARK.sub(lambda match: _COMBINING[match[0]], plain)
        plain = unicodedata.normalize("NFC", _RAISED.sub(" ", plain).translate(_PLAIN))
        plain = _LONE_LIGHT_TONE.sub(" ", _TYPED_DEAD.sub(lambda match: _DEAD_CONSONANTS[match[1]], plain))
        plain = _TYPED_AM.sub(_composed_am, _IDLE_JOINER.sub("", _MANY_JOINERS.sub(r"\1", plain)))
        plain = _CATALAN_POINT.sub("\u00b7", plain) if name in _CATALAN else plain
        plain = _HEBREW_ACRONYM.sub(_GERSHAYIM, _HYPHENATION_POINT.sub("", plain))
        plain = _INNER_OF_UZBEK.sub(_OKINA, plain) if name in _UZBEK else plain
        plain = _HEBREW_ABBREVIATION.sub(_GERESH, _QUOTED.sub(r" \1 ", plain))
        plain = _INNER_LETTER_APOSTROPHE.sub("'", _LONE_GERESH.sub(" ", plain))
        plain = _LAST_OF_UZBEK.sub(_OKINA, plain) if name in _UZBEK else plain
        plain = _BEFORE_VOWEL.sub(_OKINA, plain) if name in _POLYNESIAN else plain
    words = " ".join(_WORD.findall(_NEW_SENTENCE.sub(" ", plain)))
    if dotless_i(language):
        words = words.replace("I", "ı").replace("İ", "i")
    return unicodedata.normalize("NFC", _DOTTED.sub("", unicodedata.normalize("NFC", words.lower())))


def dotless_i(language: str | None) -> bool:
    """Whether I is the capital of ı in a language.

    >>> dotless_i("tr-TR"), dotless_i("Türkçe"), dotless_i("en"), dotless_i(None)
    (True, True, False, False)
    >>> dotless_i("kk-Latn"), dotless_i("kk")
    (True, False)
    """
    name, details = _language(language)
    latin = any(each in ("latn", "latin") for each in details)
    return name in _DOTLESS or (latin and name in _DOTLESS_IN_LATIN)


def _language(language: str | None) -> tuple[str, list[str]]:
    """The code or name of a language without diacritics and apostrophes, and the rest of its tag."""
    if language is None:
        return "", []
    plain = unicodedata.normalize("NFKD", language.strip().lower()).replace("ə", "e").replace("ı", "i")
    kept = (c for c in plain if not unicodedata.combining(c) and c not in _APOSTROPHES and c not in _LETTERS_OR_MARKS)
    name, *details = (each.strip() for each in regex.split(r"[-_(),]", "".join(kept)))
    return name, details


class _PlainForms(dict[int, str]):
    """Replacement of each character in any context, for `str.translate`; computed at first use."""

    def __missing__(self, code: int) -> str:
        self[code] = found = _plain_form(chr(code))
        return found


_PLAIN = _PlainForms()


def _plain_form(character: str) -> str:
    if character in _APOSTROPHES:
        return "'"
    if character in "\uff9e\uff9f":
        return _COMBINING[character]
    if character == _ZERO_WIDTH_SPACE:
        return " "
    if character == "\u02d9":  # a tone beside Bopomofo, elsewhere a stray dot
        return character
    if character == "\u03f2":  # lunate sigma; a capital becomes the right small one
        return "Σ"
    if character == "\u2044":
        return "/"  # ½ is 1/2
    if character == "\u0149":  # ŉ, whose first half is the apostrophe of Afrikaans
        return "'n"
    if character in _JOINERS or character in _WHOLE:
        return character
    if character in _STRETCHERS or _IGNORED.match(character) or _INNER_PUNCTUATION.match(character):
        return ""
    form = unicodedata.decomposition(character).split(" ")[0]
    if form == "<super>" and unicodedata.category(character) == "So":
        return " "  # ™ is no letter of a word
    if _MODIFIER.match(character) and form in ("<super>", "<sub>"):
        return character
    plain = unicodedata.normalize("NFKC", character)
    if plain.startswith(" ") and len(plain) > 1:  # a mark that stands alone: on nothing, or a letter's in Arabic
        return plain[1:] if _IS_LETTER.match(character) else " "
    if unicodedata.category(character) == "No" and form.startswith("<") and form not in ("<super>", "<sub>"):
        return " " + plain.replace("\u2044", "/") + " "  # 2½ is not 21⁄2, ①② is not 12
    return "".join(c for c in plain if c not in _STRETCHERS)


def _composed_am(match: "regex.Match[str]") -> str:
    nikhahit, tone, _ = match.groups()
    am = "\u0e33" if nikhahit == "\u0e4d" else "\u0eb3"
    return tone + am


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

    writes_words: ClassVar[bool] = True  # whether `decode` gives words as they are written

    def __post_init__(self) -> None:
        if self.symbols[:2] != (BLANK, WORD_BOUNDARY):
            raise ValueError(f"the first symbols must be {BLANK!r} and {WORD_BOUNDARY!r}, got {self.symbols[:2]}")
        if len(set(self.symbols)) < len(self.symbols):
            repeated = sorted(symbol for symbol, count in Counter(self.symbols).items() if count > 1)
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

    def written(self, text: str) -> str:
        """What `decode` gives where every symbol of a transcript is right; here the transcript."""
        return " ".join(text.split())

    def spellings(self, word: str) -> list[str]:
        """The ways to write a word in symbols; for characters the word itself."""
        return [word]

    def can_write(self, word: str) -> bool:
        """Whether the symbols suffice for a word."""
        return set(self.symbols[2:]).issuperset(word)

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
            indices: one per character, or one per frame with `collapse`.
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
