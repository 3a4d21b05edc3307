"""Normalisation by examples and invariances, the vocabulary by round trips."""

import unicodedata

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from speechssl.text import BLANK, WORD_BOUNDARY, Vocabulary, normalize_transcript

WORDS = st.lists(st.text("abcdé'", min_size=1), min_size=1)


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        ("", ""),
        ("  \t\n ", ""),
        ("...!?", ""),
        ("HELLO, World!", "hello world"),
        ("It’s John's dog", "it's john's dog"),
        ("don`t don´t donʼt don‘t", "don't don't don't don't"),
        ("'quoted' words and dogs' tails", "quoted words and dogs tails"),
        ("well-known\u2014or not", "well known or not"),
        ("a\u00a0b\u200bc", "a b c"),
        ("ﬁne ＡＢＣ", "fine abc"),
        ("cafe\u0301", "café"),
        ("Съешь ещё этих булок.", "съешь ещё этих булок"),
        ("नमस्ते, दुनिया", "नमस्ते दुनिया"),
        ("İstanbul", "istanbul"),
        ("J\u030c", "\u01f0"),  # composed in lower case only
        ("Straße 12", "straße 12"),
        ("a|b <unk>", "a b unk"),
    ],
)
def test_normalize_transcript(given_text: str, expected: str) -> None:
    assert normalize_transcript(given_text) == expected


# Escapes stand for what cannot be seen or is easily confused.
SCRIPTS = {
    # Tone letters and other modifiers.
    "tone letters": ("mɤ˧dzɯ˥", "mɤ˧dzɯ˥"),
    "tone letters alone": ("˧ ˥˩", "˧ ˥˩"),
    "superscript letters": ("kʷa pʰaⁿ", "kʷa pʰaⁿ"),
    "tone numbers": ("ma⁵⁵", "ma55"),
    "stress marks": ("ˈsɪlə.bəl", "ˈsɪlə.bəl"),
    "Yoruba": ("Ọ̀'wọ́ ẹ\u0301", "ọ̀'wọ́ ẹ\u0301"),
    "Igbo": ("ụ\u0301lọ\u0300", "ụ́lọ̀"),
    "Vietnamese": ("TIÊ\u0301NG VIỆT", "tiếng việt"),
    "Tifinagh": ("ⴰⴳⵯⵎⴰⵔ", "ⴰⴳⵯⵎⴰⵔ"),
    # Joiners and what cannot be seen.
    "Sinhala": ("ශ්\u200dරී ලංකා ක්\u200dරියාව", "ශ්\u200dරී ලංකා ක්\u200dරියාව"),
    "Persian": ("می\u200cخواهم کتاب\u200cها.", "می\u200cخواهم کتاب\u200cها"),
    "Hindi": ("क्\u200dष क्\u200cष, ज़रूर।", "क्\u200dष क्\u200cष ज\u093cरूर"),
    "Bengali": ("র\u200d্যাব", "র\u200d্যাব"),
    "joiners at the ends": ("\u200dمی\u200c ه\u200d", "می ه"),
    "joiner in Latin": ("Auf\u200clage", "auflage"),
    "soft hyphen": ("Donau\u00addampf", "donaudampf"),
    "word joiner": ("a\u2060b\ufeffc", "abc"),
    "bidirectional marks": ("\u202bשל\u200fום\u202c", "שלום"),
    "variation selectors": ("葛\U000e0100城 ᠠ\u180b", "葛城 ᠠ"),
    "combining grapheme joiner": ("a\u034f\u0301", "á"),
    "zero-width space": ("ភាសា\u200bខ្មែរ", "ភាសា ខ្មែរ"),
    "Arabic tatweel": ("محـــمد هـ", "محمد ه"),
    "Arabic presentation forms": ("ﻣﺤﻤﺪ ﻻ", "محمد لا"),
    "Arabic marks": ("مُحَمَّد، ١٫٥", "مُحَمَّد ١٫٥"),
    "Urdu": ("اُردو۔ کیا؟", "اُردو کیا"),
    # Points and quotes inside words.
    "Catalan": ("El col·legi paraŀlel.", "el col·legi paral·lel"),
    "hyphenation points": ("hy\u2027phen", "hyphen"),
    "Hebrew acronym": ('צה"ל צה״ל צה”ל', "צה״ל צה״ל צה״ל"),
    "Hebrew geresh": ("צ'ק ג׳ירפה ר' וכו'", "צ׳ק ג׳ירפה ר׳ וכו׳"),
    "Hebrew quotes": ("הוא אמר 'שלום'", "הוא אמר שלום"),
    "Armenian": ("Ինչպե՞ս ես։", "ինչպես ես"),
    "Finnish": ("EU:n USA:ssa", "eu:n usa:ssa"),
    "abbreviations": ("U.S.A. e.g. Ph.D.", "u.s.a e.g ph.d"),
    "a space is missing": ("the end.Then", "the end then"),
    # Apostrophes.
    "French": ("L’homme d'aujourd'hui", "l'homme d'aujourd'hui"),
    "Breton": ("c’hoar", "c'hoar"),
    "Ukrainian": ("п’ять пʼять п'ять", "п'ять п'ять п'ять"),
    "Hawaiian": ("ʻĀina Hawaiʻi", "ʻāina hawai'i"),
    "Uzbek": ("oʻzbek o‘zbek bogʻ", "o'zbek o'zbek bogʻ"),
    "Navajo": ("Tʼááʼ", "t'ááʼ"),
    "Afrikaans": ("ŉ hond", "n hond"),
    "Greek elision": ("ἀλλ\u1fbd ἐγώ", "ἀλλ ἐγώ"),
    # Numbers.
    "separators": ("3.14, 1,000 und 1.000,5.", "3.14 1,000 und 1.000,5"),
    "separators at the ends": (".5 5, 12:30", "5 5 12 30"),
    "fractions": ("2½ cups", "2 1 2 cups"),  # as 2 1/2
    "exponents": ("10² m²", "10 2 m2"),
    "circled": ("①②", "1 2"),
    # Marks and scripts without spaces.
    "Thai": ("น้ำ น\u0e49\u0e4d\u0e32 น\u0e4d\u0e49\u0e32", "น้ำ น้ำ น้ำ"),
    "Lao": ("ນ້ຳ", "ນ້ຳ"),
    "Khmer": ("ភាសាខ្មែរ។", "ភាសាខ្មែរ"),
    "Tibetan": ("བོད་ཡིག", "བོད ཡིག"),
    "Burmese": ("မြန်မာဘာသာ။", "မြန်မာဘာသာ"),
    "Tamil": ("தமிழ்நாடு", "தமிழ்நாடு"),
    "Chinese": ("你好,世界。", "你好 世界"),
    "half-width kana": ("ｶﾞ ﾃﾞｰﾀ ﾊﾟﾝ", "ガ データ パン"),
    "sound marks behind their kana": ("か゛た は゜ カ゛", "がた ぱ ガ"),
    "sound marks on nothing": ("a゛b ゜ ﾞ", "a b"),
    "Japanese": ("カタカナ・ひらがな", "カタカナ ひらがな"),
    "Korean": ("한국어", "한국어"),
    "Georgian": ("ᲡᲐᲥᲐᲠᲗᲕᲔᲚᲝ", "საქართველო"),
    "Greek": ("ΟΔΟΣ ΣΑΣ, ΟΔΟΣ.", "οδος σας οδος"),
    # What separates, and what is no word.
    "hyphens": ("well-known Nord\u2011Ost", "well known nord ost"),
    "underscores": ("snake_case les\u203famis", "snake case les amis"),
    "trade marks": ("Word™ is℠", "word is"),
    "Mongolian": ("ᠮᠣᠩᠭᠣᠯ\u202fᠤᠨ ᠮᠣᠩᠭᠣᠯ\u180eᠤᠨ", "ᠮᠣᠩᠭᠣᠯᠤᠨ ᠮᠣᠩᠭᠣᠯᠤᠨ"),
    "Greek with a comma": ("Ό,τι πεις, ὅ,τι ὅτι ό, τι αυτό,τι", "ό,τι πεις ὅ,τι ὅτι ό τι αυτό τι"),
    "thin spaces": ("1\u202f000\u2009km", "1 000 km"),
    "emoji": ("ok👍🏽 👨\u200d👩\u200d👧 1️⃣", "ok 1"),
    "a mark on nothing": ("a¨b .\u0301c", "a b c"),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_words_of_many_scripts(script: str) -> None:
    given_text, expected = SCRIPTS[script]
    assert normalize_transcript(given_text) == expected


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("\u0d05\u0d35\u0d28\u0d4d\u200d", "\u0d05\u0d35\u0d7b"),  # Malayalam "he", and not "to him"
        ("\u0d2a\u0d3e\u0d32\u0d4d\u200d", "\u0d2a\u0d3e\u0d7d"),
        ("\u09b9\u09a0\u09be\u09a4\u09cd\u200d", "\u09b9\u09a0\u09be\u09ce"),  # Bengali "suddenly"
        ("\u0931\u094d\u200d", "\u0931\u094d\u200d"),  # Marathi, at the end of a word
        ("\u02d9\u3109\u311c", "\u02d9\u3109\u311c"),  # the light tone of Bopomofo
        ("a \u02d9 b", "a b"),
        ("\ua700t\u0255ia", "\ua700t\u0255ia"),  # a Chinese tone corner
        ("it`s", "it's"),
        ("\u03f2\u03bf\u03c6\u03af\u03b1\u03f2", "\u03c3\u03bf\u03c6\u03af\u03b1\u03c2"),  # lunate sigmas
        ("syl\u2027la\u2027ble", "syllable"),
    ],
)
def test_letters_and_tones_as_they_are_typed(typed: str, expected: str) -> None:
    assert normalize_transcript(typed) == expected == normalize_transcript(expected)


def test_the_point_of_catalan_is_typed_in_two_ways() -> None:
    assert normalize_transcript("col\u2027lecci\u00f3", "ca") == normalize_transcript("col\u00b7lecci\u00f3")


@pytest.mark.parametrize(
    ("language", "texts", "expected"),
    [
        (
            "uz",
            (
                "O‘zbek tog‘ ma’no",
                "Oʻzbek togʻ maʼno",
                "‘o‘zbek’ tog’ maʻno",
                "O'zbek tog' ma'no",
                "o`zbek 'tog`' maʻno",
            ),
            "oʻzbek togʻ ma'no",
        ),
        ("uz-Latn", ("‘Bog‘’ katta",), "bogʻ katta"),
        ("Oʻzbek tili", ("G‘isht",), "gʻisht"),
        ("haw", ("‘Ōlelo Hawai‘i", "ʻŌlelo Hawaiʻi", "'Ōlelo Hawai'i", "ʼŌlelo Hawai`i"), "ʻōlelo hawaiʻi"),
        ("haw", ("'aloha' i", "‘aloha’ i"), "aloha i"),
        ("en", ("'Olelo Hawai'i",), "olelo hawai'i"),
    ],
)
def test_an_apostrophe_that_is_a_letter_has_one_form(language: str, texts: tuple[str, ...], expected: str) -> None:
    assert {normalize_transcript(text, language) for text in texts} == {expected}


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("ota", "ısparta ilı diş"),
        (None, "isparta ilı diş"),
        ("en", "isparta ilı diş"),
        ("tr", "ısparta ilı diş"),
        ("tr-TR", "ısparta ilı diş"),
        ("TR_tr", "ısparta ilı diş"),
        ("az-Latn", "ısparta ilı diş"),
        ("Turkish", "ısparta ilı diş"),
        ("Türkçe", "ısparta ilı diş"),
        ("TÜRKÇE (Türkiye)", "ısparta ilı diş"),
        ("azərbaycan", "ısparta ilı diş"),
        ("Azərbaycan dili", "ısparta ilı diş"),
        ("kk-Latn", "ısparta ilı diş"),
        ("tt_Latn_RU", "ısparta ilı diş"),
        ("kk", "isparta ilı diş"),
        ("en-Latn", "isparta ilı diş"),
        ("trv", "isparta ilı diş"),  # another language whose code begins the same
    ],
)
def test_the_capital_of_dotless_i_depends_on_the_language(language: str | None, expected: str) -> None:
    assert normalize_transcript("ISPARTA İLı DI\u0307Ş".replace("DI\u0307Ş", "Dİş"), language) == expected
    assert normalize_transcript("I\u0307", language) == "i"  # İ in two characters


# Characters that meet in words of real text; drawn together, they make every rule meet every other.
TRICKY = (
    "aAzZß1 .,:;'\"·‧‘’ʼʻ`´-_\n"
    "\u0301\u0307\u0308\u0323\u034f\u00ad\u200b\u200c\u200d\u200e\u2060\ufe0f\ufeff"
    "İIıiΣσς˧˥ʷⁿ²½①ⓐﬁＡ\u0345ͺ᾽ŉǅ"
    "אבש׳״\u05b0ىم\u0640\u064bﻻﹱ٫١ߺ"
    "ක්රत्र\u09cdร\u0e33\u0e4d\u0e49\u0e32ម្កา你カｶﾞか゛゜ー한ᄒ՞՚Ա\u202f\u203f👍🏽"
)


@given(st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(TRICKY)), max_size=20))
def test_normalising_tricky_text_twice_changes_nothing(text: str) -> None:
    for language in (None, "tr"):
        once = normalize_transcript(text, language)
        assert normalize_transcript(once, language) == once


# Without what is removed, becomes an apostrophe or stands on nothing: beside a point these leave nothing to join.
PLAIN = [c for c in TRICKY if not regex.match(r"[\p{M}\p{Cf}\u0640ߺ՞՚ŉﹱǅ]", c)]


@given(st.text(PLAIN, max_size=12))
def test_no_word_is_cut_but_where_documented(text: str) -> None:
    """Against the boundaries that the `regex` package finds by itself."""
    exceptions = regex.compile(r"[\p{Pd}\p{Pc}\p{Z}\p{So}\p{No}]|\p{Ll}\.\p{Lu}|(?<!\d)٫|٫(?!\d)|(?<![א-ת])׳")
    for segment in regex.split(r"\b", text, flags=regex.WORD | regex.V1):
        if not exceptions.search(segment):
            assert " " not in normalize_transcript(segment), segment


@given(st.text(st.sampled_from([chr(code) for code in range(0xFF66, 0xFFA0)] + ["a", " ", "カ"])))
def test_half_width_kana_are_their_full_width_ones(text: str) -> None:
    assert normalize_transcript(text) == normalize_transcript(unicodedata.normalize("NFKC", text))


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalize_transcript(text)
    assert normalize_transcript(once) == once


@given(st.text())
def test_normalised_text_can_always_be_encoded(text: str) -> None:
    normal = normalize_transcript(text)
    vocabulary = Vocabulary.from_texts([normal])
    assert vocabulary.decode(vocabulary.encode(normal)) == normal


@given(WORDS)
def test_round_trip(words: list[str]) -> None:
    vocabulary = Vocabulary.from_texts(words)
    text = " ".join(words)
    indices = vocabulary.encode(f"  {text} ")
    assert 0 not in indices
    assert max(indices) < len(vocabulary)
    assert vocabulary.decode(indices) == text


@given(WORDS, st.lists(st.integers(1, 3), min_size=100, max_size=100))
def test_collapsing_undoes_repeats_and_blanks(words: list[str], repeats: list[int]) -> None:
    vocabulary = Vocabulary.from_texts(words)
    text = " ".join(words)[:100].strip()
    frames: list[int] = []
    for index, repeat in zip(vocabulary.encode(text), repeats, strict=False):
        frames += [index] * repeat + [0]  # a blank between equal letters keeps them apart
    assert vocabulary.decode(frames, collapse=True) == text


def test_order_is_fixed() -> None:
    vocabulary = Vocabulary.from_texts(["ба", "ab a"])
    assert vocabulary.symbols == (BLANK, WORD_BOUNDARY, "a", "b", "а", "б")


def test_unknown_characters_are_named() -> None:
    with pytest.raises(ValueError, match=r"not in the vocabulary: 'b', '\|'"):
        Vocabulary.from_texts(["a"]).encode("a b |")


def test_index_out_of_range_is_named() -> None:
    with pytest.raises(ValueError, match=r"indices must be 0 to 2, got \[-1, 3\]"):
        Vocabulary.from_texts(["a"]).decode([0, 3, -1])


@pytest.mark.parametrize(
    ("symbols", "message"),
    [
        (("a", "b"), "the first symbols must be"),
        ((BLANK, WORD_BOUNDARY, "a", "a"), r"repeated symbols: \['a'\]"),
        ((BLANK, WORD_BOUNDARY, "ab"), "single characters"),
        ((BLANK, WORD_BOUNDARY, " "), "single characters"),
    ],
)
def test_wrong_symbols(symbols: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Vocabulary(symbols)


def test_boundary_as_a_letter_is_refused() -> None:
    with pytest.raises(ValueError, match="stands for the word boundary"):
        Vocabulary.from_texts(["a|b"])
