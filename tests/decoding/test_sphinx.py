"""Binary models of CMU Sphinx: a toy model read back, the one of the package, files that are cut or no such model."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from speechssl.config import UserError
from speechssl.decoding.arpa import BEGIN
from speechssl.decoding.general import english_trigram
from speechssl.decoding.ngram import estimate
from speechssl.decoding.sphinx import read_sphinx

from .sphinx_toys import write_sphinx

SENTENCES = [text.split() for text in ("a b c", "b c a b", "c c", "a", "b a c b a", "d d a")]


@pytest.mark.parametrize("order", [2, 3])
def test_a_model_is_read_back(tmp_path, order):
    model = estimate(SENTENCES, order=order)
    write_sphinx(model, tmp_path / "lm.bin")
    found = read_sphinx(tmp_path / "lm.bin").as_model()
    for ours, theirs in zip((*model.log_probs, *model.backoffs), (*found.log_probs, *found.backoffs), strict=True):
        assert set(ours) == set(theirs)
        assert [theirs[gram] for gram in ours] == pytest.approx(list(ours.values()), rel=1e-6)


@pytest.mark.parametrize("kept", [10, 400, -30])
def test_a_file_that_is_cut_short(tmp_path, kept):
    write_sphinx(estimate(SENTENCES, order=3), tmp_path / "lm.bin")
    (tmp_path / "cut.bin").write_bytes((tmp_path / "lm.bin").read_bytes()[:kept])
    with pytest.raises(UserError, match=r"cut\.bin: (damaged, or cut short|not a binary language model)"):
        read_sphinx(tmp_path / "cut.bin")


def test_a_file_of_another_kind(tmp_path):
    (tmp_path / "lm.arpa").write_text("\\data\\\nngram 1=1\n")
    with pytest.raises(UserError, match="not a binary language model of CMU Sphinx"):
        read_sphinx(tmp_path / "lm.arpa")
    with pytest.raises(UserError, match="cannot be read"):
        read_sphinx(tmp_path / "none")


def test_a_parent_without_its_children_is_damage(tmp_path):
    write_sphinx(estimate(SENTENCES, order=2), tmp_path / "lm.bin")
    content = bytearray((tmp_path / "lm.bin").read_bytes())
    first = len(b"Trie Language Model") + 1 + 8 + 4 + 4 * (1 << 16)
    content[first + 8] = 1  # the first child of the first word
    (tmp_path / "lm.bin").write_bytes(content)
    with pytest.raises(UserError, match="n-grams of 2 words do not fit those of 1"):
        read_sphinx(tmp_path / "lm.bin")


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("pocketsphinx") is None, reason="pocketsphinx (the extra lm) is not installed"
)
def test_the_english_model_scores_as_its_own_package_does():
    import pocketsphinx

    path = pocketsphinx.get_model_path("en-us/en-us.lm.bin")
    model = read_sphinx(Path(path))
    rng = np.random.default_rng(0)
    trigrams, bigrams = model.rows(3), model.rows(2)
    random = rng.integers(0, len(model.words) - 1, (1000, 3))  # the last is <unk>, which the package does not have
    rows = np.concatenate(
        [
            trigrams[rng.integers(0, len(trigrams), 1000)],
            random,
            np.concatenate([bigrams[rng.integers(0, len(bigrams), 1000)], random[:, :1]], axis=1),
        ]
    )
    pocketsphinx.set_loglevel("FATAL")
    theirs = pocketsphinx.NGramModel(pocketsphinx.Config(), pocketsphinx.LogMath(), path)
    # Its scores are whole numbers, logarithms to the base 1.0001; the newest word comes first.
    scores = [theirs.prob([model.words[number] for number in row[::-1]]) for row in rows]
    np.testing.assert_allclose(model.log_prob(rows), np.array(scores) * np.log10(1.0001), atol=1.01 * np.log10(1.0001))
    kept = english_trigram()
    assert 71_000 < len(kept.words) < 72_547
    assert not {"x-ray", "workers'"} & set(kept.words)
    for context in ((BEGIN,), ("of", "the"), ("to", "go")):
        every = np.array([[*(kept.numbers[word] for word in context), place] for place in range(len(kept.words))])
        probs = 10 ** kept.log_prob(every)
        assert probs.sum() - probs[kept.numbers[BEGIN]] == pytest.approx(1, abs=1e-6)
