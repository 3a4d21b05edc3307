"""Decoding: against the enumeration of every path, with and without a language model, and what is refused."""

import builtins
import itertools
import math
import sys
from collections import defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from speechssl.config import UserError
from speechssl.decoding import decode
from speechssl.decoding.arpa import BEGIN, END, UNKNOWN, read_arpa
from speechssl.decoding.decode import BeamDecoder, DecoderConfig, character_probability, greedy
from speechssl.decoding.ngram import as_characters, train_ngram
from speechssl.text import Vocabulary

VOCABULARY = Vocabulary.from_texts(["ab"])  # <blank> | a b
WIDE = {"beam_size": 100_000, "beam_threshold": 1e9, "nbest": 10_000}
# Three and more counts of every kind, so that no two words are equally likely.
SENTENCES = ["ab ba", "ab ab a", "ba", "a", "a ab", "ab ba ba", "b"]


@pytest.fixture(autouse=True)
def _extra_is_there(request):
    if "no_extra" not in request.node.name:
        pytest.importorskip(
            "flashlight.lib.text.decoder.kenlm", reason="the extra lm is not installed", exc_type=ImportError
        )
        pytest.importorskip("kenlm", reason="kenlm (the extra lm) is not installed")


@pytest.fixture(scope="module")
def word_lm(tmp_path_factory):
    path = tmp_path_factory.mktemp("lm") / "words.arpa"
    train_ngram(SENTENCES, path, order=2, builder="own")
    return path


@pytest.fixture(scope="module")
def character_lm(tmp_path_factory):
    path = tmp_path_factory.mktemp("lm") / "characters.arpa"
    train_ngram(map(as_characters, SENTENCES), path, order=3, builder="own")
    return path


def random_emissions(frames, seed, *, symbols=4, sharpness=1.5):
    logits = np.random.default_rng(seed).normal(scale=sharpness, size=(frames, symbols))
    return (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32)


def collapse(path):
    return tuple(symbol for symbol, _ in itertools.groupby(path) if symbol != 0)


def enumerate_symbols(log_probs):
    """ln of the probability of every symbol sequence, over all paths, by the definition."""
    totals = defaultdict(lambda: -math.inf)
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        score = sum(float(log_probs[frame, symbol]) for frame, symbol in enumerate(path))
        totals[collapse(path)] = np.logaddexp(totals[collapse(path)], score)
    return totals


def enumerate_texts(log_probs):
    """The same by text: symbols that differ in superfluous boundaries say the same."""
    totals = defaultdict(lambda: -math.inf)
    for symbols, score in enumerate_symbols(log_probs).items():
        text = VOCABULARY.decode(symbols)
        totals[text] = np.logaddexp(totals[text], score)
    return totals


@pytest.mark.parametrize("seed", range(3))
def test_the_enumeration_is_ctc(seed):
    log_probs = random_emissions(5, seed)
    totals = enumerate_symbols(log_probs)
    assert np.logaddexp.reduce(list(totals.values())) == pytest.approx(0, abs=1e-5)
    for symbols, score in totals.items():
        loss = torch.nn.functional.ctc_loss(
            torch.from_numpy(log_probs)[:, None],
            torch.tensor([symbols], dtype=torch.long),
            torch.tensor([5]),
            torch.tensor([len(symbols)]),
            reduction="sum",
        )
        assert -loss.item() == pytest.approx(score, abs=1e-4)


@settings(max_examples=20)
@given(frames=st.integers(1, 5), seed=st.integers(0, 10_000))
def test_a_wide_beam_finds_the_most_probable_text(frames, seed):
    log_probs = random_emissions(frames, seed)
    wanted = enumerate_texts(log_probs)
    found = BeamDecoder(VOCABULARY, config=DecoderConfig(lexicon=False, lm_weight=0, **WIDE)).decode(log_probs)
    assert {each.text: each.score for each in found.candidates} == pytest.approx(dict(wanted), abs=1e-3)
    assert found.text == max(wanted, key=lambda text: wanted[text])
    assert found.confidence == pytest.approx(math.exp(wanted[found.text]), abs=1e-3)


def test_a_prior_is_subtracted_in_every_frame(word_lm):
    log_probs, prior = random_emissions(5, 3), tuple(np.linspace(-0.5, -3.0, len(VOCABULARY)))
    given = BeamDecoder(VOCABULARY, config=DecoderConfig(prior=prior, prior_weight=0.4, **WIDE), lm=word_lm)
    plain = BeamDecoder(VOCABULARY, config=DecoderConfig(**WIDE), lm=word_lm)
    shifted = log_probs - 0.4 * np.array(prior)
    expected = {each.text: each.score for each in plain.decode(shifted).candidates}
    assert {each.text: each.score for each in given.decode(log_probs).candidates} == pytest.approx(expected, abs=1e-4)
    with pytest.raises(ValueError, match="no prior to weigh"):
        DecoderConfig(prior_weight=0.4)
    with pytest.raises(UserError, match="a prior of 2 symbols"):
        BeamDecoder(VOCABULARY, config=DecoderConfig(prior=(-1.0, -1.0)), lm=word_lm)


def test_without_sums_the_best_path_counts():
    log_probs = random_emissions(4, 7)
    found = BeamDecoder(VOCABULARY, config=DecoderConfig(lexicon=False, log_add=False, **WIDE)).decode(log_probs)
    assert found.score == pytest.approx(float(log_probs.max(axis=1).sum()), abs=1e-4)
    assert found.text == greedy(log_probs, VOCABULARY)


@settings(max_examples=20)
@given(
    frames=st.integers(1, 5),
    seed=st.integers(0, 10_000),
    lm_weight=st.sampled_from([0.0, 0.7, 2.0]),
    word_score=st.sampled_from([-1.5, 0.0, 1.0]),
)
def test_lexicon_language_model_and_word_score(word_lm, frames, seed, lm_weight, word_score):
    """ln P_CTC + lm_weight * log10 P_LM + word_score * words, over all texts of the lexicon's words."""
    log_probs, model = random_emissions(frames, seed), read_arpa(word_lm)
    wanted = {
        text: score + lm_weight * model.score(text) + word_score * len(text.split())
        for text, score in enumerate_texts(log_probs).items()
        if set(text.split()) <= {"a", "ab", "ba"}
    }
    config = DecoderConfig(lm_weight=lm_weight, word_score=word_score, **WIDE)
    found = BeamDecoder(VOCABULARY, config=config, lm=word_lm, words=["ba", "ab", "a"]).decode(log_probs)
    assert {each.text: each.score for each in found.candidates} == pytest.approx(wanted, abs=1e-3)
    assert found.text == max(wanted, key=lambda text: wanted[text])


@settings(max_examples=20)
@given(frames=st.integers(1, 5), seed=st.integers(0, 10_000), lm_weight=st.sampled_from([0.7, 3.0]))
def test_language_model_of_characters(character_lm, frames, seed, lm_weight):
    """Each symbol is scored in its place: the language model scores the recognised character.

    The search starts as if a boundary had just been heard: the same symbols with another one in front of them are the
    same path to it where no blank stands between.
    """
    log_probs, model = random_emissions(frames, seed), read_arpa(character_lm)
    totals = defaultdict(lambda: -math.inf)
    for path in itertools.product(range(4), repeat=frames):
        symbols = collapse(path)[1:] if path[0] == 1 else collapse(path)
        line = " ".join(VOCABULARY.symbols[symbol] for symbol in symbols)
        acoustic = sum(float(log_probs[frame, symbol]) for frame, symbol in enumerate(path))
        text = VOCABULARY.decode(symbols)
        totals[text] = np.logaddexp(totals[text], acoustic + lm_weight * model.score(line))
    config = DecoderConfig(lexicon=False, lm_weight=lm_weight, **WIDE)
    found = BeamDecoder(VOCABULARY, config=config, lm=character_lm).decode(log_probs)
    assert {each.text: each.score for each in found.candidates} == pytest.approx(dict(totals), abs=1e-3)


def test_other_weights_without_reading_again(word_lm, character_lm, tmp_path):
    for lexicon, lm in ((True, word_lm), (False, character_lm)):
        copied = tmp_path / "lm.arpa"
        copied.write_bytes(lm.read_bytes())
        first = BeamDecoder(VOCABULARY, config=DecoderConfig(lexicon=lexicon), lm=copied)
        copied.unlink()
        config = DecoderConfig(lexicon=lexicon, lm_weight=0.5, beam_size=7)
        second, fresh = first.with_config(config), BeamDecoder(VOCABULARY, config=config, lm=lm)
        for seed in range(5):
            log_probs = random_emissions(12, seed)
            assert second.decode(log_probs) == fresh.decode(log_probs)
            assert first.decode(log_probs).score != second.decode(log_probs).score
        with pytest.raises(ValueError, match="this decoder has lexicon"):
            first.with_config(DecoderConfig(lexicon=not lexicon))


@given(path=st.lists(st.integers(0, 3), max_size=12), seed=st.integers(0, 100))
def test_greedy_is_the_collapsed_argmax(path, seed):
    log_probs = random_emissions(len(path), seed)
    log_probs[np.arange(len(path)), path] = 1.0
    text = "".join(VOCABULARY.symbols[symbol] for symbol in collapse(path)).replace("|", " ")
    assert greedy(log_probs, VOCABULARY) == " ".join(text.split())


def test_a_clear_utterance_is_found_whole_with_small_beams(word_lm):
    path = [0, 2, 3, 3, 0, 1, 3, 2, 0]  # ab ba, and no boundary at the end
    log_probs = np.log(np.eye(4, dtype=np.float32)[path] * 0.97 + 0.0075)
    for text, decoder in (
        ("ab ba", BeamDecoder(VOCABULARY, lm=word_lm)),
        ("ab ba", BeamDecoder(VOCABULARY, words=["ab", "ba"], config=DecoderConfig(beam_size=5, nbest=3))),
        ("ab ba", BeamDecoder(VOCABULARY, config=DecoderConfig(lexicon=False, beam_size=5))),
    ):
        found = decoder.decode(log_probs)
        assert found.text == text
        assert 0.5 < found.confidence <= 1
        assert found.character_probability == pytest.approx(0.9775)
        assert found.candidates[0].text == text
        assert sum(each.posterior for each in found.candidates) == pytest.approx(1)


def test_impossible_symbols_and_no_frames(word_lm):
    with np.errstate(divide="ignore"):
        planted = np.log(np.eye(4, dtype=np.float32)[[2, 0, 3]])  # minus infinity everywhere else
    for lexicon in (True, False):
        decoder = BeamDecoder(VOCABULARY, config=DecoderConfig(lexicon=lexicon), lm=word_lm if lexicon else None)
        found = decoder.decode(planted)
        assert found.text == "ab"
        assert math.isfinite(found.score)
        empty = decoder.decode(np.zeros((0, 4), dtype=np.float32))
        assert (empty.text, empty.character_probability) == ("", 0.0)
    assert greedy(np.zeros((0, 4), dtype=np.float32), VOCABULARY) == ""


def test_a_word_that_is_not_finished_is_not_told():
    log_probs = np.log(np.eye(4, dtype=np.float32)[[2, 1, 2]] * 0.9999 + 0.000025)
    found = BeamDecoder(VOCABULARY, words=["ab", "a"], config=DecoderConfig(beam_size=50)).decode(log_probs)
    assert found.text == "a a"
    cut = BeamDecoder(VOCABULARY, words=["ab"], config=DecoderConfig(beam_threshold=1.0)).decode(log_probs[:1])
    assert cut.text == ""
    assert cut.score > -100


def test_character_probability():
    assert character_probability(np.log([[0.9, 0.05, 0.05], [0.8, 0.1, 0.1]])) == 0.0
    # A repeated symbol counts once, by its best frame; after a blank it is another.
    frames = [[0.2, 0.0001, 0.7], [0.1, 0.0001, 0.8], [0.9, 0.0001, 0.1], [0.4, 0.0001, 0.6], [0.1, 0.5, 0.4]]
    assert character_probability(np.log(frames)) == pytest.approx((0.8 + 0.6 + 0.5) / 3)


def test_words_that_cannot_be_spelled_are_counted(word_lm):
    decoder = BeamDecoder(VOCABULARY, lm=word_lm, words=["ab", "cab", "ab", "a|b", "ж", "a"])
    assert decoder.words == ("a", "ab")
    assert decoder.left_out == ("a|b", "cab", "ж")
    assert BeamDecoder(VOCABULARY, lm=word_lm).words == ("a", "ab", "b", "ba")
    assert not {BEGIN, END, UNKNOWN} & set(BeamDecoder(VOCABULARY, lm=word_lm).words)


def test_words_outside_the_language_model_can_be_found(word_lm):
    planted = np.log(np.eye(4, dtype=np.float32)[[3, 0, 3]] * 0.97 + 0.0075)
    assert BeamDecoder(VOCABULARY, lm=word_lm, words=["bb", "a"]).decode(planted).text == "bb"


def test_nothing_is_drawn_on_standard_error(word_lm, capfd):
    BeamDecoder(VOCABULARY, lm=word_lm)
    assert capfd.readouterr() == ("", "")
    sys.stderr.write("still here")
    assert capfd.readouterr().err == "still here"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "language model cannot be read: No such file"),
        ("nonsense\n", "not an ARPA language model"),
        (
            "\\data\\\nngram 1=2\nngram 2=5\n\n\\1-grams:\n-1\ta\t0\n-1\t</s>\n\n\\2-grams:\n-1\ta </s>\n\n\\end\\\n",
            "cannot read it",
        ),
    ],
)
def test_language_models_that_are_none(tmp_path, content, message):
    path = tmp_path / "lm.arpa"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message) as raised:
        BeamDecoder(VOCABULARY, lm=path)
    assert "\n" not in str(raised.value)
    assert "lm.arpa" in str(raised.value)


def test_language_models_of_the_other_kind(word_lm, character_lm, tmp_path):
    with pytest.raises(UserError, match=r"characters\.arpa: a language model of characters"):
        BeamDecoder(VOCABULARY, lm=character_lm)
    path = tmp_path / "words.arpa"
    train_ngram(["hello world"], path, builder="own")
    with pytest.raises(UserError, match=r"words\.arpa: not a language model of the characters"):
        BeamDecoder(VOCABULARY, lm=path, config=DecoderConfig(lexicon=False))


def test_settings_that_do_not_fit(word_lm):
    with pytest.raises(ValidationError, match="a search without a lexicon has no words"):
        DecoderConfig(lexicon=False, word_score=1.0)
    with pytest.raises(UserError, match="needs a language model or a list of words"):
        BeamDecoder(VOCABULARY)
    with pytest.raises(UserError, match=r"no word of the lexicon \(2\)"):
        BeamDecoder(VOCABULARY, words=["x", "y"])
    with pytest.raises(ValueError, match="words were given"):
        BeamDecoder(VOCABULARY, words=["a"], config=DecoderConfig(lexicon=False))
    decoder = BeamDecoder(VOCABULARY, lm=word_lm)
    for recognise in (decoder.decode, lambda log_probs: greedy(log_probs, VOCABULARY)):
        with pytest.raises(ValueError, match="5 symbols, the vocabulary has 4"):
            recognise(random_emissions(3, 0, symbols=5))
        with pytest.raises(ValueError, match="not a number"):
            recognise(np.full((3, 4), np.nan, dtype=np.float32))


def test_no_extra_is_one_line(monkeypatch):
    """As if flashlight-text were not installed."""
    for name in [each for each in sys.modules if each.startswith(("flashlight", "torchaudio.models.decoder"))]:
        monkeypatch.delitem(sys.modules, name)
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("flashlight"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"pip install 'speechssl\[lm\]'"):
        BeamDecoder(VOCABULARY, words=["ab"])


def test_no_extra_and_broken_libraries(monkeypatch):
    def broken(name):
        raise OSError("libflashlight-text.so: undefined symbol")

    monkeypatch.setattr(decode.importlib, "import_module", broken)
    with pytest.raises(UserError, match=r"flashlight-text .*cannot be loaded: .*undefined symbol"):
        BeamDecoder(VOCABULARY, words=["ab"])


@pytest.mark.parametrize("lexicon", [True, False])
def test_the_search_is_that_of_torchaudio(lexicon, word_lm, character_lm, tmp_path):
    """The same n-best texts and scores as torchaudio's decoder, which is set up anew for every set of weights."""
    from torchaudio.models.decoder import ctc_decoder

    lm = word_lm if lexicon else character_lm
    words = ["a", "ab", "b", "ba"]
    (tmp_path / "lexicon").write_text("".join(f"{word} {' '.join(word)} |\n" for word in words))
    (tmp_path / "names").write_text("\n".join([*(words if lexicon else VOCABULARY.symbols), "<unk>"]))
    first = BeamDecoder(VOCABULARY, lm=lm, config=DecoderConfig(lexicon=lexicon, nbest=5))
    for lm_weight, word_score in ((0.5, -1.0), (3.0, 2.0)):
        weights = {"lm_weight": lm_weight, "word_score": word_score if lexicon else 0.0}
        own = first.with_config(DecoderConfig(lexicon=lexicon, nbest=5, **weights))
        theirs = ctc_decoder(
            lexicon=str(tmp_path / "lexicon") if lexicon else None,
            tokens=list(VOCABULARY.symbols),
            lm=str(lm),
            lm_dict=str(tmp_path / "names"),
            nbest=5,
            beam_size=100,
            beam_threshold=50.0,
            log_add=True,
            blank_token="<blank>",
            sil_token="|",
            unk_word="<unk>",
            **weights,
        )
        for seed in range(4):
            rows = random_emissions(12, seed)
            if lexicon:  # the added frame of a boundary
                padded = np.concatenate([rows, np.array([[-1e6, 0, -1e6, -1e6]], dtype=np.float32)])
            found = theirs(torch.from_numpy(padded if lexicon else rows)[None])[0]
            texts = [" ".join(e.words) if lexicon else VOCABULARY.decode(e.tokens.tolist()) for e in found]
            scores = {}
            for text, each in zip(texts, found, strict=True):
                scores[text] = np.logaddexp(scores.get(text, -np.inf), each.score)
            mine = {each.text: each.score for each in own.decode(rows).candidates}
            assert mine == pytest.approx(scores, abs=1e-3)


def test_homophones_are_kept_by_their_probability(tmp_path):
    """A spelling has six words in flashlight's tree: the likeliest ones, whatever their order in the alphabet."""

    class Homophones(Vocabulary):
        def spellings(self, word):
            return ["ab"]

        def can_write(self, word):
            return True

    words = [f"w{number}" for number in range(9)]
    train_ngram([" ".join([word] * (2 + number)) for number, word in enumerate(words)], tmp_path / "lm", order=1)
    decoder = BeamDecoder(
        Homophones.from_texts(["ab"]), lm=tmp_path / "lm", config=DecoderConfig(nbest=20, lm_weight=1.0)
    )
    rows = np.log(np.eye(4, dtype=np.float32)[[2, 3]] + 1e-4)
    found = {each.text for each in decoder.decode(rows).candidates}
    assert found & {*words} == {*words[3:]}
    assert decoder.decode(rows).text == "w8"
