"""Cached vectors; the model computes those that are missing.

All layers of a clip are pooled in one pass, and cached: in memory, and on disk where a folder is given.
"""

import functools

import numpy as np
from jaxtyping import Float32

from speechssl.config import UserError
from speechssl.embed.cache import DiskCache, MemoryCache, Vectors, entry_key
from speechssl.embed.clips import content_digest, to_waveform
from speechssl.embed.embedder import EmbeddingModel
from speechssl.inference.layers import ALL_LAYERS, Layer
from speechssl.inference.pooling import Pooling
from speechssl.inference.windows import Waveform


class CachedVectors:
    """A model with the cache of its vectors, for one layer and pooling.

    Args:
        model: computes vectors that are not cached.
        layer: as in `EmbeddingModel.embed`.
        pooling: as in `EmbeddingModel.embed`.
        memory_bytes: limit of the cache in memory, over the process.
        disk: the cache on disk, if any.

    Raises:
        UserError: unknown layer or pooling, or a negative amount of memory.
    """

    def __init__(
        self, model: EmbeddingModel, *, layer: Layer, pooling: Pooling, memory_bytes: int, disk: DiskCache | None
    ):
        if memory_bytes < 0:
            raise UserError(f"memory_bytes must be at least 0, got {memory_bytes}")
        model.embed_layers([], pooling=pooling, layers=[layer])  # refuses unknown ones before any clip is decoded
        self._layers: list[Layer] = [*range(model.layers + 1), ALL_LAYERS]
        if model.encoding.mix is not None:
            self._layers.append("mix")
        self._place = self._layers.index(layer if isinstance(layer, str) else int(layer) % (model.layers + 1))
        self._model = model
        self._pooling: Pooling = pooling
        self._layer: Layer = layer
        self._memory_bytes, self._disk = memory_bytes, disk
        self._keeps = memory_bytes > 0 or disk is not None

    def look_up(
        self, clip: object, into: Float32[np.ndarray, " dim"], *, name: str
    ) -> tuple[str | None, Waveform | None]:
        """Fills in a cached vector; otherwise returns the clip's key, where one is needed, and its waveform.

        Raises:
            AudioError: a clip that cannot be used.
        """
        early = None
        if self._keeps and self._model.dtype == "auto":  # the dtype that it selects is part of the key
            early = to_waveform(clip, name=name)
            self._model.settle([early])
        digest = content_digest(clip) if self._keeps else None
        found = self._found(digest)
        waveform = early
        if found is None and waveform is None:
            waveform = to_waveform(clip, name=name)
        if waveform is not None and digest is None and self._keeps:  # an open file: its key is that of its samples
            digest = content_digest(waveform)
            found = self._found(digest)
        if found is not None:
            into[:] = found[self._place]
            return None, None
        return self._key(digest), waveform

    def compute(
        self, waiting: dict[str, tuple[Waveform, list[int]]], vectors: Float32[np.ndarray, "clips dim"]
    ) -> None:
        """Encodes waveforms and fills in their rows; caches all layers, where there is a cache."""
        waveforms = [waveform for waveform, _ in waiting.values()]
        layers: list[Layer] = self._layers if self._keeps else [self._layer]
        place = self._place if self._keeps else 0
        blocks = self._model.embed_layers(waveforms, pooling=self._pooling, layers=layers)
        for number, (key, (_, rows)) in enumerate(waiting.items()):
            vectors[rows] = blocks[place, number]
            if self._keeps:
                self._keep(key, blocks[:, number])

    def _found(self, digest: str | None) -> Vectors | None:
        key = self._key(digest)
        if key is None:
            return None
        found = memory_cache().get(key)
        if found is None and self._disk is not None:
            found = self._disk.get(key)
            if found is not None:
                memory_cache().put(key, found, max_bytes=self._memory_bytes)
        return found

    def _keep(self, key: str, vectors: Vectors) -> None:
        memory_cache().put(key, vectors, max_bytes=self._memory_bytes)
        if self._disk is not None:
            self._disk.put(key, vectors)

    def _key(self, digest: str | None) -> str | None:
        if digest is None:
            return None
        return entry_key(digest, self._model.digest, pooling=self._pooling, dtype=self._model.dtype)


@functools.cache
def memory_cache() -> MemoryCache:
    """The cache in memory, one per process."""
    return MemoryCache()
