"""What is minimised and logged, against closed forms and against the scorer."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from speechssl.config import UserError
from speechssl.data.labelled import Example
from speechssl.metrics.wer import count_errors
from speechssl.models.classifier import Classifier, ClassifierConfig
from speechssl.models.ctc import CTCConfig, CTCModel, CTCOutput, ctc_loss
from speechssl.models.encoder import SpeechEncoder
from speechssl.text import Vocabulary
from speechssl.train.criteria import CTC, CrossEntropy, criterion_of
from tests.toys import MICRO_ENCODER

NAMES = ("a", "b", "c")
IMBALANCED = [Example(index, name) for index, name in enumerate("aaaaaabbbc")]
VOCABULARY = Vocabulary.from_texts(["abc"])  # blank, |, a, b, c


def classifier(*, class_weights: bool = True, valid: str = "") -> CrossEntropy:
    model = Classifier(SpeechEncoder(MICRO_ENCODER), NAMES, ClassifierConfig())
    held = [Example(index, name) for index, name in enumerate(valid)]
    found = criterion_of(model, IMBALANCED, held, class_weights=class_weights, steps=100)
    assert isinstance(found, CrossEntropy)
    return found


def writer(texts: list[str], valid: list[str], *, steps: int = 100) -> CTC:
    model = CTCModel(SpeechEncoder(MICRO_ENCODER), VOCABULARY, CTCConfig())
    sides = [[Example(index, text) for index, text in enumerate(part)] for part in (texts, valid)]
    found = criterion_of(model, *sides, class_weights=True, steps=steps)
    assert isinstance(found, CTC)
    return found


def spelled(*rows: str) -> CTCOutput:
    """Emissions that are sure of a symbol a frame; ``_`` is the blank."""
    frames = max(len(row) for row in rows)
    log_probs = torch.full((len(rows), frames, 5), 0.01)
    for row, symbols in zip(log_probs, rows, strict=True):
        for frame, symbol in zip(row, symbols, strict=False):
            frame["_|abc".index(symbol)] = 0.96
    return CTCOutput(log_probs.log(), torch.tensor([len(row) for row in rows]))


def measured(criterion: CTC | CrossEntropy, output: Any, places: list[int]) -> dict[str, Any]:
    criterion.model.eval()
    loss = criterion.loss(output, places, progress=1.0)
    return criterion.metrics(loss.terms, loss.stats)


# Classes


@pytest.mark.parametrize("class_weights", [True, False])
def test_balanced_weights_are_the_closed_form(class_weights: bool) -> None:
    criterion = classifier(class_weights=class_weights)
    logits = torch.randn(10, 3, requires_grad=True)
    loss = criterion.loss(logits, range(10), progress=0.5)
    weights = torch.tensor([10 / 18, 10 / 9, 10 / 3]) if class_weights else torch.ones(3)
    targets = torch.tensor([0] * 6 + [1] * 3 + [2])
    expected = F.cross_entropy(logits, targets, weight=weights)
    torch.testing.assert_close(loss.total / loss.stats["count"], expected)
    assert float(loss.stats["count"]) == pytest.approx(10)
    assert criterion.metrics(loss.terms, loss.stats)["loss"] == pytest.approx(expected.item())
    ours, theirs = (torch.autograd.grad(each, logits, retain_graph=True)[0] for each in (loss.total / 10, expected))
    torch.testing.assert_close(ours, theirs)


def test_a_guess_costs_the_same_in_every_class() -> None:
    """With balanced weights the loss of knowing nothing is that of as many classes, however rare they are."""
    criterion = classifier()
    for places in (range(10), [9], [0, 1, 9]):
        loss = criterion.loss(torch.zeros(len(places), 3), places, progress=0.5)
        assert float(loss.total / loss.stats["count"]) == pytest.approx(math.log(3))


def test_scores_of_the_held_out_side() -> None:
    criterion = classifier(valid="aaab")
    logits = F.one_hot(torch.tensor([0, 0, 1, 2]), 3).float()
    found = measured(criterion, logits, [0, 1, 2, 3])
    assert found["uar"] == pytest.approx((2 / 3 + 0) / 2)  # no c was spoken: it does not count
    assert found["accuracy"] == pytest.approx(0.5)
    assert found["error"] == pytest.approx(1 - found["uar"])


def test_sums_of_parts_are_those_of_the_whole() -> None:
    criterion = classifier(valid="abcab")
    criterion.model.eval()
    logits = torch.randn(5, 3)
    whole, first, rest = (
        criterion.loss(logits[places], places, progress=1.0) for places in ([0, 1, 2, 3, 4], [0, 1], [2, 3, 4])
    )
    terms = {name: first.terms[name] + rest.terms[name] for name in whole.terms}
    stats = {name: first.stats[name] + rest.stats[name] for name in whole.stats}
    assert criterion.metrics(terms, stats) == pytest.approx(criterion.metrics(whole.terms, whole.stats))


def test_an_unknown_class_is_refused() -> None:
    with pytest.raises(UserError, match="class 'd' is held out but not trained on"):
        classifier(valid="ad")


# Texts


def test_errors_are_those_of_the_greedy_text() -> None:
    texts = ["ab c", "a", "cab", "b"]
    criterion = writer(["abc"], texts)
    output = spelled("_aab_|c__", "b", "c_a_b", "____")
    written = ["ab c", "b", "cab", ""]
    words, characters = (count_errors(texts, written, unit=unit) for unit in ("word", "character"))
    found = measured(criterion, output, [0, 1, 2, 3])
    assert (
        found["wer"] == pytest.approx(sum(each.errors for each in words) / sum(each.words for each in words)) == 2 / 5
    )
    expected = sum(each.errors for each in characters) / sum(each.words for each in characters)
    assert found["cer"] == pytest.approx(expected)
    loss = ctc_loss(output, [VOCABULARY.encode(text) for text in texts]).sum()
    assert found["loss"] == pytest.approx(float(loss) / sum(len(text) for text in texts))
    assert found["blank_share"] == pytest.approx((4 + 0 + 2 + 4) / (9 + 1 + 5 + 4))
    assert measured(criterion, spelled("cab"), [2])["wer"] == 0


def test_frames_behind_the_end_are_not_read() -> None:
    criterion = writer(["abc"], ["a"])
    output = spelled("abc")
    assert measured(criterion, CTCOutput(output.log_probs, torch.tensor([1])), [0])["wer"] == 0


def test_what_cannot_be_written_is_an_error_and_no_target() -> None:
    criterion = writer(["abc"], ["xa zz", "ß"])
    found = measured(criterion, spelled("_a_", "___"), [0, 1])
    assert found["wer"] == 1.0  # three words, none of them right
    assert found["cer"] == pytest.approx(5 / 6)  # x, space, z, z and ß are missing, a is there
    assert math.isfinite(found["loss"])


def test_a_learnt_character_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(UserError, match="character 'z' of a transcript is not in the vocabulary"):
        writer(["abc", "a z"], [])


def test_training_and_held_out_texts_are_not_mixed_up() -> None:
    criterion = writer(["aa"], ["b"])
    output = spelled("a_a")
    criterion.model.train()
    train = criterion.loss(output, [0], progress=0.1)
    assert float(train.total) == pytest.approx(float(ctc_loss(output, [[2, 2]])))
    assert "word_errors" not in train.stats
    assert measured(criterion, output, [0])["cer"] == 2.0  # "aa" for "b"


def test_while_there_are_only_blanks_a_smaller_loss_is_better() -> None:
    """Early stopping would else take that phase for the end; a real difference of the errors always outweighs it."""
    criterion = writer(["abc"], ["abc"])
    sure, unsure = torch.zeros(1, 6, 5), torch.zeros(1, 6, 5)
    sure[..., 0], unsure[..., 0] = 8.0, 2.0
    found = [
        measured(criterion, CTCOutput(logits.log_softmax(dim=-1), torch.tensor([6])), [0]) for logits in (sure, unsure)
    ]
    assert [each["wer"] for each in found] == [each["cer"] for each in found] == [1.0, 1.0]
    assert found[1]["loss"] < found[0]["loss"]
    assert found[1]["error"] < found[0]["error"]
    assert found[0]["error"] == pytest.approx(1.1, abs=2e-3)


def test_it_is_said_how_long_only_blanks_are_normal() -> None:
    criterion = writer(["abc"], [], steps=200)
    blanks = spelled("______")

    def said(output: CTCOutput, progress: float) -> str:
        criterion.model.train()
        loss = criterion.loss(output, [0], progress=progress)
        return criterion.summary(criterion.metrics(loss.terms, loss.stats))

    assert said(blanks, 0.1).endswith("per character, still only blanks (normal until about step 60)")
    assert "later than usual: more loop.steps, or a higher optim.lr" in said(blanks, 0.5)
    assert said(spelled("_a_b_c"), 0.1).endswith("per character")
    assert "WER 0.250, CER 0.100" in criterion.summary({"loss": 1.0, "wer": 0.25, "cer": 0.1})
