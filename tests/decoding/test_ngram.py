"""n-gram models: by hand, summing to one, equal to KenLM's reading of the file, and what cannot be trained."""

import itertools
import math
import stat
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechssl.config import UserError
from speechssl.decoding.arpa import BEGIN, END, UNKNOWN, NgramModel, arpa_words, perplexity, read_arpa, write_arpa
from speechssl.decoding.kneser_ney import FALLBACK_DISCOUNTS, discounts, kneser_ney
from speechssl.decoding.ngram import as_characters, estimate, train_ngram

SENTENCES = st.lists(st.lists(st.sampled_from("abcde"), min_size=1, max_size=6), min_size=1, max_size=30)


def random_sentences(count=300, words=40, seed=0):
    """Sentences with some order in them: the next word is often the one after the last."""
    rng = np.random.default_rng(seed)
    names = [f"w{number}" for number in range(words)]
    sentences = []
    for _ in range(count):
        place, sentence = int(rng.zipf(1.5) % words), []
        for _ in range(int(rng.integers(1, 12))):
            sentence.append(names[place])
            place = (place + 1) % words if rng.random() < 0.6 else int(rng.zipf(1.5) % words)
        sentences.append(" ".join(sentence))
    return sentences


def loaded_by_kenlm(path: Path):
    kenlm = pytest.importorskip("kenlm", reason="kenlm (the extra lm) is not installed")
    config = kenlm.Config()
    config.show_progress, config.arpa_complain = False, kenlm.ARPALoadComplain.NONE
    return kenlm.Model(str(path), config)


def test_a_bigram_by_hand():
    """`a b` and `a`: bigrams <s> a twice, a b, b </s> and a </s> once; a follows one word, b one, </s> two.

    No count of three, so that the fallback 0.5, 1, 1.5 is taken off. Single words: the sum of counts is 4, discounting
    frees (0.5 + 0.5 + 1) / 4 = 0.5, a fourth of it for each of a, b, </s> and <unk>.
    """
    model = estimate([["a", "b"], ["a"]], order=2)
    single = {"a": 0.25, "b": 0.25, END: 0.375, UNKNOWN: 0.125}
    for word, prob in single.items():
        assert 10 ** model.log_prob(word) == pytest.approx(prob)
    assert 10 ** model.backoffs[0]["a",] == pytest.approx(0.5)
    assert 10 ** model.log_prob("b", ("a",)) == pytest.approx(0.5 / 2 + 0.5 * 0.25)
    assert 10 ** model.log_prob(END, ("a",)) == pytest.approx(0.5 / 2 + 0.5 * 0.375)
    assert 10 ** model.log_prob("a", ("a",)) == pytest.approx(0.5 * 0.25)
    assert 10 ** model.log_prob("a", (BEGIN,)) == pytest.approx((2 - 1) / 2 + 1 / 2 * 0.25)
    assert 10 ** model.log_prob("zzz", ("b",)) == pytest.approx(0.5 * 0.125)
    assert 10 ** model.score("a b") == pytest.approx(0.625 * 0.375 * (0.5 + 0.5 * 0.375))


@given(sentences=SENTENCES, order=st.integers(1, 5))
def test_probabilities_after_any_context_sum_to_one(sentences, order):
    model = estimate(sentences, order=order, vocabulary=["never heard"])
    predicted = [*model.words, END, UNKNOWN]
    contexts = [(), (BEGIN,), ("a",), (BEGIN, "a", "b"), ("zzz", "a"), *itertools.product("abcde", repeat=2)]
    contexts += [(BEGIN, *sentence)[-4:] for sentence in sentences]
    for context in contexts:
        assert sum(10 ** model.log_prob(word, context) for word in predicted) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_kenlm_scores_the_file_as_we_do(tmp_path, order):
    sentences = random_sentences()
    train_ngram(sentences, tmp_path / "lm.arpa", order=order, builder="own")
    reader, model = loaded_by_kenlm(tmp_path / "lm.arpa"), estimate([s.split() for s in sentences], order=order)
    assert reader.order == max(order, 2)
    rng = np.random.default_rng(order)
    for _ in range(200):
        words = [f"w{number}" for number in rng.integers(0, 45, size=rng.integers(0, 9))]  # five are unknown
        text = " ".join(words)
        assert model.score(text) == pytest.approx(reader.score(text, bos=True, eos=True), abs=1e-4)
    assert perplexity(model, sentences[:1]).value == pytest.approx(reader.perplexity(sentences[0]), rel=1e-4)


def test_a_model_of_characters(tmp_path):
    texts = ["it's a cab", "a bad cab", "ёж"]
    train_ngram(map(as_characters, texts), tmp_path / "characters.arpa", order=4, builder="own")
    reader, model = loaded_by_kenlm(tmp_path / "characters.arpa"), read_arpa(tmp_path / "characters.arpa")
    assert "|" in model.words
    assert as_characters(" a  cab ") == "a | c a b"
    for text in [*texts, "cab ёж cab", ""]:
        line = as_characters(text)
        assert model.score(line) == pytest.approx(reader.score(line), abs=1e-4)


@given(sentences=SENTENCES, order=st.integers(1, 5))
def test_reading_gives_what_was_written(tmp_path_factory, sentences, order):
    path = tmp_path_factory.mktemp("arpa") / "lm.arpa"
    model = estimate(sentences, order=order)
    write_arpa(model, path)
    again = read_arpa(path)
    assert arpa_words(path) == model.words == again.words
    for sentence in [["a", "e", "zzz"], *sentences]:
        assert again.score(" ".join(sentence)) == pytest.approx(model.score(" ".join(sentence)), abs=1e-5)


def test_one_text_gives_one_file(tmp_path):
    sentences = random_sentences(50)
    for name, given_sentences in (("one", sentences), ("two", sentences[::-1])):
        train_ngram(given_sentences, tmp_path / name, builder="own")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_longer_contexts_fit_the_training_text_better():
    sentences = random_sentences()
    words = [sentence.split() for sentence in sentences]
    values = [perplexity(estimate(words, order=order), sentences).value for order in (1, 2, 3)]
    assert values[0] > 1.5 * values[1] > 1.5 * values[2]
    shuffled = [" ".join(np.random.default_rng(1).permutation(s.split())) for s in sentences]
    assert perplexity(estimate(words, order=3), shuffled).value > 1.5 * values[2]


def test_perplexity_counts_ends_and_unknown_words():
    model = estimate([["a", "b"], ["a"]], order=2)
    found = perplexity(model, ["a zzz", "b"])
    assert (found.words, found.unknown) == (5, 1)
    total = model.score("a zzz") + model.score("b")
    assert found.value == pytest.approx(10 ** (-total / 5))
    with pytest.raises(ValueError, match="at least one sentence"):
        perplexity(model, [])


def test_words_that_are_asked_for_are_known():
    model = estimate([["a", "b"]], order=2, vocabulary=["a", "c"])
    assert model.words == ["a", "b", "c"]
    assert model.has_word("c")
    assert not model.has_word("d")
    assert model.log_prob("c") == pytest.approx(model.log_prob(UNKNOWN))


def test_discounts_of_chen_and_goodman():
    counts = [1] * 10 + [2] * 4 + [3] * 2 + [4]
    y = 10 / 18
    assert discounts(counts) == pytest.approx((1 - 2 * y * 4 / 10, 2 - 3 * y * 2 / 4, 3 - 4 * y * 1 / 2))
    for tiny in ([], [1, 2, 4], [2, 3], [1] * 2 + [2] + [3] * 2):  # the last: a discount of 2 below zero
        assert discounts(tiny) == FALLBACK_DISCOUNTS


def test_a_text_of_short_sentences_has_a_shorter_model(tmp_path):
    summary = train_ngram(["a", "b"], tmp_path / "lm.arpa", order=5, builder="own")
    assert summary.order == 3  # <s> a </s>
    assert read_arpa(tmp_path / "lm.arpa").order == 3
    assert math.isfinite(loaded_by_kenlm(tmp_path / "lm.arpa").score("a b a"))


def test_lmplz_is_used_where_it_is(tmp_path, monkeypatch):
    """A stand-in on the PATH that copies a ready file; the real one is a C++ program that no package index has."""
    write_arpa(NgramModel(({("a",): -0.5, (END,): -0.5}, {("a", END): -0.1}), ({}, {})), tmp_path / "ready")
    program = tmp_path / "bin" / "lmplz"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\nwhile [ "$1" != --text ]; do shift; done\n')
    with program.open("a") as file:
        file.write(f'/bin/cp "$2" {tmp_path}/text\n/bin/cp {tmp_path}/ready "$4"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(program.parent))
    summary = train_ngram(["a  b", "", "c"], tmp_path / "lm.arpa", order=4)
    assert (summary.builder, summary.words, summary.sentences) == ("lmplz", 1, 2)
    assert (tmp_path / "asked").read_text().startswith("-o 4 --discount_fallback ")
    assert (tmp_path / "text").read_text() == "a b\nc\n"
    assert (tmp_path / "lm.arpa").read_bytes() == (tmp_path / "ready").read_bytes()
    assert train_ngram(["a"], tmp_path / "own.arpa", vocabulary=["b"]).builder == "own"
    program.write_text("#!/bin/sh\necho 'out of memory' >&2\nexit 1\n")
    with pytest.raises(UserError, match=r"lmplz failed \(status 1\): out of memory"):
        train_ngram(["a"], tmp_path / "lm.arpa")
    assert not list(tmp_path.glob(".lmplz*"))
    monkeypatch.setenv("PATH", "")
    assert train_ngram(["a"], tmp_path / "own.arpa").builder == "own"
    with pytest.raises(UserError, match="lmplz is not on the PATH"):
        train_ngram(["a"], tmp_path / "lm.arpa", builder="lmplz")


@pytest.mark.parametrize(
    ("sentences", "message"),
    [([], "no sentence to train"), (["", " "], "no sentence to train"), (["a <s>"], "holds '<s>'.*'a <s>'")],
)
def test_texts_that_teach_nothing(tmp_path, sentences, message):
    with pytest.raises(UserError, match=message):
        train_ngram(sentences, tmp_path / "lm.arpa", builder="own")
    assert not list(tmp_path.iterdir())


def test_settings_out_of_range(tmp_path):
    with pytest.raises(ValueError, match="order must be 1 to 5, got 6"):
        train_ngram(["a"], tmp_path / "lm.arpa", order=6)
    with pytest.raises(ValueError, match="lmplz takes no vocabulary"):
        train_ngram(["a"], tmp_path / "lm.arpa", vocabulary=["b"], builder="lmplz")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello\n" * 200,
        b"\\data\\\nngram 1=1\n\n\\1-grams:\n-1\ta\n",
        b"\\data\\\n\\1-grams:\n-1\n\\end\\",
        b"\xff\xfe",
    ],
)
def test_files_that_are_no_arpa_files(tmp_path, content):
    path = tmp_path / "lm.arpa"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"lm\.arpa: not an ARPA language model"):
        read_arpa(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="no such language model"):
        read_arpa(tmp_path / "none.arpa")
    with pytest.raises(UserError, match="cannot be read"):
        arpa_words(tmp_path)


HEAD = "\\data\\\nngram 1=2\nngram 2=1\n\n\\1-grams:\n-1\t<s>\t-0.3\n-1\ta\n\n\\2-grams:\n-0.5\t<s> a\n\n\\end\\\n"


@pytest.mark.parametrize(
    "change",
    [
        ("ngram 1=2", "ngram 1=99999999999"),  # KenLM makes room for as many as are claimed
        ("ngram 1=2", "ngram 1=-1"),
        ("ngram 1=2", "ngram 1=x"),
        ("ngram 2=1", "ngram 1000000=1"),
        ("-1\ta", "nan\ta"),
        ("-1\ta", "2\ta"),
        ("-1\ta", "inf\ta"),
        ("-0.3", "nan"),
        ("-1\ta", "-1\t" + "a" * 100_000),
        ("\\1-grams:", "\\99999999-grams:"),
        ("\\end\\", "x" * 10**6),
    ],
)
@pytest.mark.parametrize("read", [read_arpa, arpa_words])
def test_files_that_claim_what_they_do_not_hold(tmp_path, change, read):
    path = tmp_path / "lm.arpa"
    path.write_text(HEAD, encoding="utf-8")
    assert read(path)
    assert HEAD.count(change[0]) >= 1
    path.write_text(HEAD.replace(*change, 1), encoding="utf-8")
    if read is arpa_words and change[0] == "\\end\\":
        return  # of which no more than the words is read
    with pytest.raises(UserError, match=r"lm\.arpa: not an ARPA language model"):
        read(path)


def test_a_large_text_keeps_what_occurs_again():
    """Trigrams that occur once are dropped; what they had goes to shorter contexts, so that sums stay one."""
    sentences = [text.split() for text in random_sentences(60, words=6)]
    whole, part = (kneser_ney(sentences, order=3, most=most).as_model() for most in (10**6, 10))
    windows = [(BEGIN, *words, END) for words in sentences]
    counts = Counter(words[i : i + 3] for words in windows for i in range(len(words) - 2))
    assert set(part.log_probs[2]) == {gram for gram, count in counts.items() if count > 1} < set(whole.log_probs[2])
    assert part.log_probs[:2] == whole.log_probs[:2]
    words = [*part.words, END, UNKNOWN]
    for context in [gram[:2] for gram in counts]:
        assert sum(10 ** part.log_prob(word, context) for word in words) == pytest.approx(1)
    some = next(iter(part.log_probs[2]))
    assert part.log_prob(some[-1], some[:-1]) >= whole.log_prob(some[-1], some[:-1])
