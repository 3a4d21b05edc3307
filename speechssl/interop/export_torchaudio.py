"""A model as a state dict of ``torchaudio.models.wav2vec2_model``, with that function's arguments as JSON beside it.

    arguments = json.loads(Path("model.json").read_text())["arguments"]
    model = torchaudio.models.wav2vec2_model(**arguments).eval()
    model.load_state_dict(torch.load("model.pt", weights_only=True))

The encoder, or a recogniser whose head reads the last layer (their ``aux``).
"""

import io
import json
from pathlib import Path
from typing import Any

import torch

from speechssl.audio import SAMPLE_RATE
from speechssl.config import UserError
from speechssl.files import write_together
from speechssl.interop import torchaudio
from speechssl.interop.exportable import encoder_reason, head_reason
from speechssl.interop.stored import StoredModel
from speechssl.models.ctc import CTCModel


def write_torchaudio(path: Path, model: StoredModel, *, about: dict[str, Any]) -> None:
    """Write ``path`` and, beside it, the same name with ``.json``.

    Args:
        path: path of the state dict.
        model: the model to write.
        about: JSON with the model's origin.

    Raises:
        UserError: a model that torchaudio does not support; names the setting, and a way out.
    """
    head = model.head
    reason = None if head is None else head_reason("torchaudio", head.config)
    if reason is not None:
        raise UserError(f"{model.folder}: {reason}; --encoder-only leaves the head out, ONNX can hold it (--to onnx)")
    reason = encoder_reason("torchaudio", model.encoder.config)
    if reason is not None:
        raise UserError(f"{model.folder}: {reason}; ONNX can hold it (--to onnx)")
    arguments = torchaudio.export_config(model.encoder.config)
    weights = torchaudio.export_weights(
        {f"encoder.{name}": value for name, value in model.encoder.state_dict().items()}
    )
    content: dict[str, Any] = {
        "function": "torchaudio.models.wav2vec2_model",
        "arguments": arguments,
        "sample_rate": SAMPLE_RATE,
        "normalize": model.encoder.config.normalize,
        **about,
    }
    if isinstance(head, CTCModel):
        weights |= {f"aux.{name}": value for name, value in head.output.state_dict().items()}
        arguments["aux_num_out"] = len(head.vocabulary)
        content["symbols"] = list(head.vocabulary.symbols)
    buffer = io.BytesIO()
    torch.save({name: value.detach().clone() for name, value in weights.items()}, buffer)
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_together({path.with_suffix(".json"): text.encode(), path: buffer.getvalue()})
