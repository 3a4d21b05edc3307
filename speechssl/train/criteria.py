"""Losses and metrics of fine-tuning: cross-entropy over classes, CTC over characters; both in fp32."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from speechssl.config import UserError
from speechssl.data.labelled import Example
from speechssl.metrics.wer import count_errors
from speechssl.models.classifier import Classifier, LogMelClassifier
from speechssl.models.ctc import CTCModel, CTCOutput, ctc_loss
from speechssl.models.heads import Head
from speechssl.objectives.base import Curve, Metrics, StepOutput
from speechssl.train.ctc_terms import CTCTerms, CTCTermsConfig

TIE = 1e-4  # weight of the loss against the error rates: it decides between equal ones
ONLY_BLANKS = 0.995  # fraction of blank frames above which a CTC model counts as giving empty transcripts
BLANK_PHASE = 0.3  # fraction of the run in which that is normal


@runtime_checkable
class Criterion(Protocol):
    """A loss with its metrics; the metric ``error`` is smallest for the best model.

    Attributes:
        curves: metrics that the report draws.
    """

    curves: tuple[Curve, ...]

    def loss(self, output: Any, places: Sequence[int], *, progress: float) -> StepOutput:
        """Loss of the examples at ``places``: of the training set in training mode, else of the held-out set."""
        ...

    def metrics(self, terms: dict[str, Tensor], stats: dict[str, Tensor]) -> Metrics:
        """Metrics to log, from summed terms and stats."""
        ...

    def summary(self, metrics: Mapping[str, Any]) -> str:
        """Metrics for the progress line."""
        ...


def criterion_of(
    model: Head,
    train: Sequence[Example],
    valid: Sequence[Example],
    *,
    class_weights: bool,
    steps: int,
    terms: CTCTermsConfig | None = None,
) -> Criterion:
    """The criterion of a model.

    Raises:
        UserError: a class is held out but not trained on, or a training character is not in the vocabulary.
    """
    if isinstance(model, CTCModel):
        return CTC(model, train, valid, steps=steps, terms=terms or CTCTermsConfig())
    return CrossEntropy(model, train, valid, class_weights=class_weights)


class CrossEntropy:
    """Cross-entropy, by default weighted so that every class counts the same, as in UAR."""

    curves = (
        Curve("loss", "Cross-entropy (nats)"),
        Curve("uar", "Unweighted average recall", limits=(0.0, 1.0), headline=True),
    )

    def __init__(
        self,
        model: Classifier | LogMelClassifier,
        train: Sequence[Example],
        valid: Sequence[Example],
        *,
        class_weights: bool,
    ):
        self.model = model
        index = {name: number for number, name in enumerate(model.classes)}
        unknown = sorted({example.target for example in valid} - index.keys())
        if unknown:
            raise UserError(f"class {unknown[0]!r} is held out but not trained on")
        self._train, self._valid = ([index[example.target] for example in part] for part in (train, valid))
        counts = np.bincount(self._train, minlength=len(index))
        balanced = len(train) / (len(index) * counts)  # the mean weight of an utterance is one
        self._weights = torch.tensor(balanced if class_weights else np.ones(len(index)), dtype=torch.float32)

    def loss(self, output: Tensor, places: Sequence[int], *, progress: float) -> StepOutput:  # noqa: ARG002
        """See `Criterion.loss`; ``output`` are logits."""
        known = self._train if self.model.training else self._valid
        targets = torch.tensor([known[place] for place in places], device=output.device)
        weights = self._weights.to(output.device)[targets]
        with torch.autocast(output.device.type, enabled=False):
            total = (nn.functional.cross_entropy(output.float(), targets, reduction="none") * weights).sum()
        confusion = torch.zeros(len(self._weights), len(self._weights), device=output.device)
        confusion.index_put_((targets, output.argmax(dim=-1)), torch.ones_like(weights), accumulate=True)
        return StepOutput(total, {"cross_entropy": total.detach()}, {"count": weights.sum(), "confusion": confusion})

    def metrics(self, terms: dict[str, Tensor], stats: dict[str, Tensor]) -> Metrics:
        """``loss`` in nats, ``uar`` over the classes that occurred, ``accuracy``, and ``error`` = 1 - UAR."""
        confusion = stats["confusion"]
        spoken = confusion.sum(dim=1)
        uar = float((confusion.diagonal() / spoken)[spoken > 0].mean())
        return {
            "loss": float(terms["cross_entropy"] / stats["count"]),
            "uar": uar,
            "accuracy": float(confusion.diagonal().sum() / confusion.sum()),
            "error": 1.0 - uar,
        }

    def summary(self, metrics: Mapping[str, Any]) -> str:
        """Loss and UAR."""
        return f"loss {metrics['loss']:.3f}, UAR {metrics['uar']:.3f}"


class CTC:
    """CTC, with word and character errors of the greedy transcripts at validations."""

    curves = (
        Curve("loss", "CTC loss (nats per character)"),
        Curve(
            "blank_share",
            "Blanks and errors",
            label="fraction of blank frames",
            caption="While nearly all frames are blank, transcripts are empty: normal in the first third of a run.",
        ),
        Curve("wer", "Blanks and errors", label="word error rate", training=False, headline=True),
        Curve("cer", "Blanks and errors", label="character error rate", training=False, headline=True),
    )

    def __init__(
        self,
        model: CTCModel,
        train: Sequence[Example],
        valid: Sequence[Example],
        *,
        steps: int,
        terms: CTCTermsConfig,
    ):
        self.model, self.steps = model, steps
        self.terms = CTCTerms(terms, dim=model.trunk.encoder.config.dim, symbols=len(model.vocabulary))
        if not model.vocabulary.writes_words:
            self._texts = [model.vocabulary.written(example.target) for example in valid]
            self._train, self._valid = (
                [model.vocabulary.encode(each.target) for each in part] for part in (train, valid)
            )
            return
        self._texts = [example.target for example in valid]
        symbols = set(model.vocabulary.symbols)
        # A held-out character outside the vocabulary is no target; in the transcript it counts as an error.
        writable = ["".join(c for c in text if c in symbols or c == " ") for text in self._texts]
        unknown = sorted({c for example in train for c in example.target} - symbols - {" "})
        if unknown:
            raise UserError(f"character {unknown[0]!r} of a transcript is not in the vocabulary")
        self._train = [model.vocabulary.encode(example.target) for example in train]
        self._valid = [model.vocabulary.encode(text) for text in writable]

    def loss(self, output: CTCOutput, places: Sequence[int], *, progress: float) -> StepOutput:
        """See `Criterion.loss`; targets are symbols. What is logged is CTC alone, without additions."""
        known = self._train if self.model.training else self._valid
        targets = [known[place] for place in places]
        alone = ctc_loss(output, targets).sum()
        total = self.terms(output, targets) if self.terms.active and self.model.training else alone
        best, device = output.log_probs.argmax(dim=-1), output.log_probs.device
        frames = output.num_frames.sum().float()
        spoken = torch.arange(best.shape[1], device=device) < output.num_frames.unsqueeze(1)
        stats = {
            "count": torch.tensor(float(sum(len(target) for target in targets)), device=device),
            "frames": frames,
            "blanks": ((best == 0) & spoken).sum().float(),
            "progress": progress * frames,
        }
        if not self.model.training:
            rows = [row[:count] for row, count in zip(best.tolist(), output.num_frames.tolist(), strict=True)]
            stats |= self._errors([self._texts[place] for place in places], rows, device)
        return StepOutput(total, {"ctc": alone.detach()}, stats)

    def _errors(self, texts: Sequence[str], rows: Sequence[Sequence[int]], device: torch.device) -> dict[str, Tensor]:
        written = [self.model.vocabulary.decode(row, collapse=True) for row in rows]
        sums: dict[str, float] = {}
        for unit in ("word", "character"):
            counts = count_errors(texts, written, unit=unit)
            sums[f"{unit}_errors"] = float(sum(each.errors for each in counts))
            sums[f"{unit}s"] = float(sum(each.words for each in counts))
        return {name: torch.tensor(value, device=device) for name, value in sums.items()}

    def metrics(self, terms: dict[str, Tensor], stats: dict[str, Tensor]) -> Metrics:
        """``loss`` in nats per character, ``blank_share`` of the frames, and at validations ``wer`` and ``cer``."""
        loss = float(terms["ctc"] / stats["count"].clamp(min=1))
        metrics: Metrics = {
            "loss": loss,
            "blank_share": float(stats["blanks"] / stats["frames"]),
            "progress": float(stats["progress"] / stats["frames"]),
        }
        if "word_errors" in stats:
            wer, cer = (float(stats[f"{unit}_errors"] / stats[f"{unit}s"]) for unit in ("word", "character"))
            # While no word is right, the CER selects the best model; while there are only blanks, the loss does, or
            # early stopping would end the run in that phase.
            metrics |= {"wer": wer, "cer": cer, "error": wer + 0.1 * cer + TIE * loss}
        return metrics

    def summary(self, metrics: Mapping[str, Any]) -> str:
        """Loss and, where measured, error rates; and whether empty transcripts are still normal."""
        words = f"loss {metrics['loss']:.3f} per character"
        if "wer" in metrics:
            return f"{words}, WER {metrics['wer']:.3f}, CER {metrics['cer']:.3f}"
        if metrics["blank_share"] < ONLY_BLANKS:
            return words
        if metrics["progress"] <= BLANK_PHASE:
            return f"{words}, still only blanks (normal until about step {round(BLANK_PHASE * self.steps)})"
        return f"{words}, still only blanks, later than usual: more loop.steps, or a higher optim.lr"
