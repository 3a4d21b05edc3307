"""The encoder protocol of MTEB, whose audio tasks are MAEB: this package's encoders for `mteb.evaluate`.

`mteb.models.EncoderProtocol` of MTEB 2.8 and later (Muennighoff et al. 2022, arXiv 2210.07316), checked with 2.26.24 of
`pip install "mteb[audio]"`:

    import mteb
    from speechssl.mteb import MtebModel

    mteb.evaluate(MtebModel("runs/mine"), mteb.get_tasks(tasks=["CREMA_D"]))

Sounds may be of any length and rate, silent, noise or music. An embedding does not depend on the batch.
"""

import importlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from speechssl.audio import RECEPTIVE_FIELD, SAMPLE_RATE, resample
from speechssl.config import UserError
from speechssl.embed.embedder import load
from speechssl.inference.layers import Layer
from speechssl.inference.pooling import Pooling

Embeddings = Float[np.ndarray, "sounds dim"] | Float[Tensor, "sounds dim"]


class MtebModel:
    """Frozen encoder that MTEB can evaluate on audio.

    Args:
        name: what `speechssl.load` takes; None: the bundled model.
        device: a torch device, or `auto`.
        layer: as in `EmbeddingModel.embed`; None: what the model's config names, else -1.
        pooling: the same; None: what the model's config names, else `mean`.

    Raises:
        UserError: no model there, none bundled, an unknown device, layer or pooling.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        device: str = "auto",
        layer: Layer | None = None,
        pooling: Pooling | None = None,
    ):
        self.model = load(name, device=device)
        self.choice = self.model.choice.or_given(layer=layer, pooling=pooling)
        self.dim = self._embed([]).shape[1]  # an unknown layer or pooling raises its error here

    @property
    def mteb_model_meta(self) -> Any:
        """The `ModelMeta` that results are stored under: `speechssl/NAME`, and the hash of the weights as revision.

        Raises:
            UserError: MTEB is not installed.
        """
        try:
            meta = importlib.import_module("mteb.models.model_meta")
        except ModuleNotFoundError:
            raise UserError('mteb is not installed; pip install "mteb[audio]"') from None
        known = {
            "name": f"speechssl/{self.model.name.strip('/').rpartition('/')[2] or 'encoder'}",
            "revision": f"{self.model.digest}-layer-{self.choice.layer}-{self.choice.pooling}",
            "embed_dim": self.dim,
            "modalities": ["audio"],
            "framework": ["PyTorch"],
            "n_parameters": sum(each.numel() for each in self.model.encoder.parameters()),
            "similarity_fn_name": meta.ScoringFunction.COSINE,
        }
        return meta.ModelMeta.create_empty(known)

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,  # noqa: ARG002 -- of the protocol; all tasks are encoded alike
        hf_split: str,  # noqa: ARG002 -- of the protocol; all splits are encoded alike
        hf_subset: str,  # noqa: ARG002 -- the same of subsets
        prompt_type: Any = None,  # noqa: ARG002 -- of the protocol; there are no prompts
        **settings: Any,  # noqa: ARG002 -- batch_size and progress; batches are made by duration here
    ) -> Float32[np.ndarray, "sounds dim"]:
        """One vector per sound.

        Args:
            inputs: batches; each has a list of `{"array": samples, "sampling_rate": Hz}` at `audio`.
            task_metadata: not used.
            hf_split: not used.
            hf_subset: not used.
            prompt_type: not used.
            settings: not used.

        Returns:
            (sounds, dim), in the order given.

        Raises:
            UserError: a batch without audio, a rate that is not positive, or samples that are not finite.
        """
        vectors = [self._embed([])]
        for batch in inputs:
            if "audio" not in batch:
                raise UserError(f"inputs: this encoder needs audio, the batch has {', '.join(sorted(batch))}")
            vectors.append(self._embed([_waveform(each) for each in batch["audio"]]))
        return np.concatenate(vectors)

    def similarity(self, embeddings1: Embeddings, embeddings2: Embeddings) -> Float32[Tensor, "first second"]:
        """Cosine of every vector of the first with every one of the second."""
        return _unit(embeddings1) @ _unit(embeddings2).T

    def similarity_pairwise(self, embeddings1: Embeddings, embeddings2: Embeddings) -> Float32[Tensor, " pairs"]:
        """Cosine of each vector of the first with the one at its place in the second."""
        return (_unit(embeddings1) * _unit(embeddings2)).sum(dim=1)

    def _embed(self, waveforms: Sequence[Float32[np.ndarray, " samples"]]) -> Float32[np.ndarray, "sounds dim"]:
        return self.model.embed_layers(waveforms, pooling=self.choice.pooling, layers=[self.choice.layer])[0]


def _waveform(item: Mapping[str, Any]) -> Float32[np.ndarray, " samples"]:
    """Mono samples at 16 kHz; channels, the first axis, are averaged, and less than a frame is filled with zeros.

    >>> _waveform({"array": np.zeros((2, 100)), "sampling_rate": 8000}).shape
    (400,)
    """
    rate, samples = item["sampling_rate"], np.asarray(item["array"], dtype=np.float32)
    if not rate > 0:
        raise UserError(f"inputs: a sampling rate of {rate} Hz")
    samples = samples.mean(axis=0) if samples.ndim > 1 else samples
    if not np.isfinite(samples).all():
        raise UserError(f"inputs: {int((~np.isfinite(samples)).sum())} samples are NaN or infinite")
    samples = resample(samples, int(rate), SAMPLE_RATE)
    return np.pad(samples, (0, max(0, RECEPTIVE_FIELD - len(samples))))


def _unit(embeddings: Embeddings) -> Float32[Tensor, "sounds dim"]:
    return torch.nn.functional.normalize(torch.as_tensor(embeddings).float(), dim=1)
