"""The contenders of a few-label experiment: their names, features and classifiers.

Without training of a network:

- `frozen probe`: logistic regression on mean and standard deviation over frames of the mean of the encoder's layers;
  `frozen probe, LDA`: LDA with a shrunk covariance on the same; `frozen probe, chosen`: the better of the two by folds
  of the shots.
- `frozen random encoder`: the first on the same network with random weights: the part of the architecture alone.
- `prosody + LDA`: functionals of energy, F0, voicing and tilt (`nn.functionals`).
- `encoder + prosody`, `encoder + prosody + MFCC`: one LDA per block, their scores weighted by folds of the shots
  (`metrics.fusion`).
- `layers + prosody + MFCC`: the same with one block per layer of the encoder, so that the layers are weighted too.
- `frozen probe, self-training`: the LDA of the encoder's features, which also learns from its most confident answers
  for the unlabelled recordings of the training speakers (Yarowsky, "Unsupervised Word Sense Disambiguation Rivaling
  Supervised Methods", 1995).
- `MFCC + SVM`: statistics of 20 MFCC and their deltas, standardised, into a support vector machine (Cortes and Vapnik,
  "Support-Vector Networks", 1995), the classic of the field (Schuller, Steidl and Batliner, 2009). Kernel, C and gamma
  are chosen on the shots alone, by balanced accuracy under folds that are grouped by speaker where possible.
- `MFCC + logistic`, `MFCC + LDA`, and `MFCC, chosen`: the best of the three by folds of the shots, the same right as
  the encoder's.
- `MFCC + SVM, level removed`: the same after every utterance was scaled to unit variance, as for an encoder. The
  difference is the information in the loudness, which recordings with one gain keep.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from speechssl.config import UserError
from speechssl.metrics.shot_classifiers import SVM_FIXED, SVM_GRID, ClassifierName

FINE_TUNED, FROZEN, FROZEN_RANDOM = "fine-tuned", "frozen probe", "frozen random encoder"
FROZEN_LDA, FROZEN_CHOSEN, SELF_TRAINED = "frozen probe, LDA", "frozen probe, chosen", "frozen probe, self-training"
PROSODY, WITH_PROSODY = "prosody + LDA", "encoder + prosody"
FUSION, LAYERS = "encoder + prosody + MFCC", "layers + prosody + MFCC"
SVM, SVM_NO_LEVEL = "MFCC + SVM", "MFCC + SVM, level removed"
MFCC_LOGISTIC, MFCC_LDA, MFCC_CHOSEN = "MFCC + logistic", "MFCC + LDA", "MFCC, chosen"
CNN, SCRATCH, CHANCE = "log-mel CNN", "from scratch", "chance"
CONTENDERS = {
    "fine-tuned": FINE_TUNED,
    "fusion": FUSION,
    "layers-fusion": LAYERS,
    "encoder-prosody": WITH_PROSODY,
    "probe-best": FROZEN_CHOSEN,
    "probe-lda": FROZEN_LDA,
    "self-training": SELF_TRAINED,
    "frozen-probe": FROZEN,
    "random-encoder": FROZEN_RANDOM,
    "prosody": PROSODY,
    "mfcc-best": MFCC_CHOSEN,
    "mfcc-lda": MFCC_LDA,
    "mfcc-logistic": MFCC_LOGISTIC,
    "mfcc-svm": SVM,
    "logmel-cnn": CNN,
    "scratch": SCRATCH,
    "mfcc-svm-level": SVM_NO_LEVEL,
}
"""Contenders by their name on the command line. Chance always runs."""
DEFAULT = ("fine-tuned", "frozen-probe", "random-encoder", "mfcc-svm", "logmel-cnn", "scratch")
WITH_GAINS = (FINE_TUNED, FUSION, LAYERS, WITH_PROSODY, FROZEN_CHOSEN, FROZEN_LDA, SELF_TRAINED, FROZEN)
"""Contenders whose gains over the others are reported."""
TRAINED = (FINE_TUNED, CNN, SCRATCH)

Source = Literal["model", "layers", "random encoder", "prosody", "MFCC", "MFCC without level"]
Method = Literal["LDA", "logistic", "SVM", "chosen", "fused", "self-training"]


@dataclass(frozen=True)
class Recipe:
    """A contender that trains no network.

    Attributes:
        sources: blocks of features; `layers` is one block per layer.
        method: classifier, or how the blocks are combined.
        among: the candidates of `chosen`; the first wins ties.
    """

    sources: tuple[Source, ...]
    method: Method
    among: tuple[ClassifierName, ...] = ()

    @property
    def uses_model(self) -> bool:
        """Whether the answers depend on the encoder's weights."""
        return "model" in self.sources or "layers" in self.sources


RECIPES: dict[str, Recipe] = {
    FUSION: Recipe(("model", "prosody", "MFCC"), "fused"),
    LAYERS: Recipe(("layers", "prosody", "MFCC"), "fused"),
    WITH_PROSODY: Recipe(("model", "prosody"), "fused"),
    FROZEN_CHOSEN: Recipe(("model",), "chosen", ("LDA", "logistic")),
    FROZEN_LDA: Recipe(("model",), "LDA"),
    SELF_TRAINED: Recipe(("model",), "self-training"),
    FROZEN: Recipe(("model",), "logistic"),
    FROZEN_RANDOM: Recipe(("random encoder",), "logistic"),
    PROSODY: Recipe(("prosody",), "LDA"),
    MFCC_CHOSEN: Recipe(("MFCC",), "chosen", ("LDA", "logistic", "SVM")),
    MFCC_LDA: Recipe(("MFCC",), "LDA"),
    MFCC_LOGISTIC: Recipe(("MFCC",), "logistic"),
    SVM: Recipe(("MFCC",), "SVM"),
    SVM_NO_LEVEL: Recipe(("MFCC without level",), "SVM"),
}
WITH_MODEL: tuple[str, ...] = (FINE_TUNED, *(name for name, recipe in RECIPES.items() if recipe.uses_model))


def settings_of(recipe: Recipe) -> list[object]:
    """What the answers depend on beside the data and the model; part of a cell's key.

    >>> settings_of(RECIPES[FROZEN])
    []
    """
    grid: list[object] = [SVM_GRID, SVM_FIXED] if "SVM" in (recipe.method, *recipe.among) else []
    if recipe.method in ("logistic", "SVM"):
        return grid
    return [*recipe.sources, recipe.method, *recipe.among, *grid]


def contender_names(words: Sequence[str]) -> list[str]:
    """The names of the contenders in the table, in the table's order.

    Raises:
        UserError: an unknown name, or none.

    >>> contender_names(["mfcc-svm", "fine-tuned"])
    ['fine-tuned', 'MFCC + SVM']
    """
    unknown = [word for word in words if word not in CONTENDERS]
    if unknown or not words:
        given = unknown[0] if unknown else ""
        raise UserError(f"contender {given!r}: allowed are {', '.join(CONTENDERS)}")
    return [name for word, name in CONTENDERS.items() if word in words]
