"""Where a long recording is cut, and that a search in pieces finds what one search finds."""

import numpy as np
import pytest

from speechssl.decoding import decode
from speechssl.decoding.decode import BeamDecoder, DecoderConfig, beam_search_installed
from speechssl.decoding.ngram import train_ngram
from speechssl.decoding.pieces import pieces
from speechssl.text import Vocabulary

VOCABULARY = Vocabulary.from_texts(["ab"])  # <blank> | a b


def heard(path):
    return np.log(np.eye(4, dtype=np.float32)[path] * 0.97 + 0.0075)


def ranges(path, most):
    return [(each.first, each.stop, each.ends_word) for each in pieces(heard(path), VOCABULARY, most=most)]


def test_cuts_are_between_words_where_there_are_any():
    path = [2, 2, 0, 0, 0, 0, 3, 1, 2, 3, 3, 2]
    assert ranges(path, 12) == [(0, 12, True)]
    assert ranges(path, 8) == [(0, 7, True), (7, 12, True)]  # at the boundary, not in the longer run of blanks
    assert ranges(path, 7) == [(0, 4, False), (4, 7, True), (7, 12, True)]
    assert ranges([2, 3] * 3, 4) == [(0, 4, False), (4, 6, True)]  # no pause at all
    assert ranges([], 4) == [(0, 0, True)]


@pytest.mark.parametrize("seed", range(5))
def test_pieces_cover_all_frames_in_order(seed):
    path = np.random.default_rng(seed).choice([0, 0, 1, 2, 3], size=200)
    found = ranges(path, 17)
    assert [first for first, _, _ in found] == [0, *(stop for _, stop, _ in found[:-1])]
    assert found[-1][1] == 200
    assert all(0 < stop - first <= 17 for first, stop, _ in found)


@pytest.mark.skipif(not beam_search_installed(), reason="the extra lm is not installed")
@pytest.mark.parametrize("lexicon", [True, False])
def test_a_search_in_pieces_finds_what_is_heard(tmp_path, monkeypatch, lexicon):
    said = "ab ba aab b a bb" if lexicon else "ab ba ab b a bab"
    path = [0, *(n for c in said for n in [1 if c == " " else 2 + "ab".index(c), 0])]
    train_ngram([said] * 3, tmp_path / "lm.arpa", order=2)
    config = DecoderConfig(lexicon=lexicon, beam_size=10, lm_weight=0.1)
    decoder = BeamDecoder(VOCABULARY, config=config, lm=tmp_path / "lm.arpa" if lexicon else None)
    whole = decoder.decode(heard(path))
    assert whole.text == said
    monkeypatch.setattr(decode, "MAX_STATES", 100)  # ten frames
    asked = []
    search = BeamDecoder._decode
    monkeypatch.setattr(BeamDecoder, "_decode", lambda own, rows: asked.append(len(rows)) or search(own, rows))
    found = decoder.decode(heard(path))
    assert found.text == said
    assert len(asked) > 2
    assert max(asked) <= 10
    assert 0 < found.confidence <= 1
    assert found.character_probability == whole.character_probability
