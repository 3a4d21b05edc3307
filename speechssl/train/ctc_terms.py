"""What may be added to the CTC loss of the training side: a label prior, and a second loss at half depth.

- Label prior: Zeyer et al. 2021, "Why does CTC result in peaky behavior?" (arXiv 2105.14849): from a uniform start, CTC
  first learns to give blanks alone. Probabilities are divided by a power of their running mean, so that a symbol that
  is rare so far counts more. Decoding is without it.
- Loss at half depth: Lee and Watanabe 2021, "Intermediate Loss Regularization for CTC-based Speech Recognition" (arXiv
  2102.03216). Its linear layer is not part of the saved model.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from speechssl.config import Config
from speechssl.distributed import sum_over_ranks
from speechssl.models.ctc import CTCOutput, ctc_loss

_MEMORY = 0.99  # of the running mean, per update
_LEAST = 1e-6  # probability, so that a symbol that was never given does not count without bound


class CTCTermsConfig(Config):
    """Additions to the CTC loss; 0 for none.

    Attributes:
        label_prior: exponent of the running mean that probabilities are divided by.
        middle: weight of a CTC loss on the hidden state at half depth; that of the last one has weight 1.
    """

    label_prior: float = Field(default=0.0, ge=0, le=1)
    middle: float = Field(default=0.0, ge=0, le=1)


class CTCTerms(nn.Module):
    """State of the additions: the running mean of the posteriors, and the linear layer at half depth.

    Args:
        config: which ones.
        dim: of the encoder.
        symbols: of the vocabulary.
    """

    prior: Float[Tensor, " symbols"]
    _posteriors: Float[Tensor, " symbols"]

    def __init__(self, config: CTCTermsConfig, *, dim: int, symbols: int):
        super().__init__()
        self.config = config
        self.output = nn.Linear(dim, symbols) if config.middle else None
        if config.label_prior:
            self.register_buffer("prior", torch.full((symbols,), 1 / symbols))
            self.register_buffer("_posteriors", torch.zeros(symbols), persistent=False)

    @property
    def active(self) -> bool:
        """Whether there are any."""
        return self.config != CTCTermsConfig()

    def forward(self, output: CTCOutput, targets: Sequence[Sequence[int]]) -> Float[Tensor, ""]:
        """Negative log-likelihood of the targets with all additions, summed, in nats."""
        total = self._nll(output, targets)
        if self.output is not None:
            assert output.middle is not None
            with torch.autocast(output.log_probs.device.type, enabled=False):
                log_probs = self.output(output.middle.float()).log_softmax(dim=-1)
                early = ctc_loss(CTCOutput(log_probs, output.num_frames), targets)
            total = total + self.config.middle * early.sum()
        return total

    def _nll(self, output: CTCOutput, targets: Sequence[Sequence[int]]) -> Float[Tensor, ""]:
        if not self.config.label_prior:
            return ctc_loss(output, targets).sum()
        frames = torch.arange(output.log_probs.shape[1], device=output.log_probs.device)
        spoken = frames < output.num_frames.unsqueeze(1)
        self._posteriors += output.log_probs.detach().exp()[spoken].sum(dim=0)
        scores = output.log_probs - self.config.label_prior * self.prior.clamp(min=_LEAST).log()
        # torch's CTC has the right gradient for normalised scores only. Every path takes one score of each frame, so
        # that what normalisation takes from a frame is taken from the log-likelihood once.
        scale = scores.logsumexp(dim=-1, keepdim=True)
        return ctc_loss(CTCOutput(scores - scale, output.num_frames), targets).sum() - scale[spoken].sum()

    def after_update(self) -> None:
        """Move the running mean towards the posteriors of all ranks since the last call."""
        if not self.config.label_prior:
            return
        found = sum_over_ranks({"posteriors": self._posteriors})["posteriors"]
        self.prior.lerp_(found / found.sum().clamp(min=1.0), 1 - _MEMORY)
        self._posteriors.zero_()
