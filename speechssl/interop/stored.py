"""Model folder read for export: kind, encoder, head or objective, and config."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from speechssl.config import UserError
from speechssl.models.classifier import Classifier
from speechssl.models.ctc import CTCModel
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.files import read_tensors
from speechssl.models.heads import load_head
from speechssl.models.storage import load_encoder, model_hash, read_model_config

_EXPORTED_OBJECTIVE = "wav2vec2"  # its quantizer and projections are supported by other programs
Kind = Literal["encoder", "pretraining", "ctc", "classifier"]

_AUXILIARY = "prosody."  # prefix of tensors that no other program has
_OBJECTIVE = "objective."  # prefix of the objective's tensors
_MASK = "mask_embedding"


@dataclass(frozen=True)
class StoredModel:
    """A model, in evaluation mode on the CPU.

    Attributes:
        folder: the model folder.
        kind: kind of the model, or of the requested part.
        encoder: its encoder.
        head: a fine-tuned model, the encoder included; None for the first two kinds.
        objective: tensors of the objective without their prefix, for the kind ``pretraining``; else empty.
        mask_embedding: replaces masked frames in training, where the folder has it.
        config: ``config.json``.
        digest: :func:`speechssl.models.storage.model_hash` of the folder.
    """

    folder: Path
    kind: Kind
    encoder: SpeechEncoder
    head: CTCModel | Classifier | None
    objective: Mapping[str, Tensor]
    mask_embedding: Tensor | None
    config: Mapping[str, Any]
    digest: str


def read_stored(folder: Path, *, encoder_only: bool = False) -> StoredModel:
    """Read a model folder.

    Args:
        folder: a model folder, or a run folder with one named ``model`` in it.
        encoder_only: leave out everything but the encoder.

    Raises:
        UserError: not a model folder, or a model that has no encoder.

    Example:
        >>> import tempfile
        >>> from speechssl.models.encoder import PRESETS
        >>> from speechssl.models.storage import save_model
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_model(Path(folder), SpeechEncoder(PRESETS["tiny"]))
        ...     read_stored(Path(folder)).kind
        'encoder'
    """
    if not (folder / "config.json").is_file() and (folder / "model" / "config.json").is_file():
        folder = folder / "model"
    config = read_model_config(folder)
    if config["encoder"] is None:
        raise UserError(
            f"{folder}: a model without an encoder (a log-mel network); only models on an encoder are exported"
        )
    digest, path = model_hash(folder), folder / "model.safetensors"
    objective = read_tensors(path, prefix=_OBJECTIVE)
    mask = objective.pop(_MASK, None)
    if "head" in config:
        head = load_head(folder)
        if isinstance(head, Classifier) and head.by_speaker and not encoder_only:
            raise UserError(f"{folder}: its head needs each speaker's mean and deviation, which no other program has")
        assert isinstance(head, CTCModel | Classifier)  # the third kind has no encoder
        encoder, mask = head.trunk.encoder, head.trunk.mask_embedding.detach()
        kind = "ctc" if isinstance(head, CTCModel) else "classifier"
    else:
        head, encoder = None, load_encoder(folder)
        named = dict(config.get("objective") or {}).get("name")
        objective = objective if named == _EXPORTED_OBJECTIVE else {}  # other programs support no other method
        objective = {key: each for key, each in objective.items() if not key.startswith(_AUXILIARY)}
        kind = "pretraining" if objective else "encoder"
    if encoder_only:
        kind, head, objective = "encoder", None, {}
    return StoredModel(folder, kind, encoder, head, objective, mask, config, digest)
