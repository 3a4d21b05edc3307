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
from speechssl.interop import huggingface, torchaudio
from speechssl.interop.stored import StoredModel
from speechssl.models.ctc import CTCModel
from speechssl.models.storage import write_atomic


def write_torchaudio(path: Path, model: StoredModel, *, about: dict[str, Any]) -> None:
    """Write ``path`` and, beside it, the same name with ``.json``.

    Args:
        path: of the state dict.
        model: what to write.
        about: JSON that tells where it comes from.

    Raises:
        UserError: what torchaudio cannot express; says by which setting, and what can be done.
    """
    head = model.head
    if head is not None and (not isinstance(head, CTCModel) or head.config.layers != "last"):
        what = "a classifier" if not isinstance(head, CTCModel) else f"ctc.layers={head.config.layers!r}"
        raise UserError(
            f"{model.folder}: {what} cannot be expressed in torchaudio, whose only head is a linear layer a frame on "
            "the last layer; --encoder-only leaves the head out, ONNX can hold it (--to onnx)"
        )
    try:
        if huggingface.model_type(model.encoder.config) != "wav2vec2":
            raise ValueError("not a wav2vec 2.0 encoder, and torchaudio.models.wav2vec2_model builds no other")
        arguments = torchaudio.export_config(model.encoder.config)
    except ValueError as error:
        raise UserError(f"{model.folder}: {error}; ONNX can hold it (--to onnx)") from None
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
    write_atomic(path.with_suffix(".json"), text.encode())
    write_atomic(path, buffer.getvalue())
