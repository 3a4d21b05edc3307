"""Utterance features without a model, for `Embedder(features=...)`: prosody functionals and MFCC statistics.

They are cached as the encoder's vectors are, in memory and on disk, by the content of the clip.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float32

from speechssl.config import UserError
from speechssl.embed.cache import DiskCache, entry_key
from speechssl.embed.cached import memory_cache
from speechssl.embed.clips import content_digest, to_waveform
from speechssl.metrics.baselines import COEFFICIENTS, mfcc_statistics
from speechssl.nn.functionals import NAMES, prosody_functionals

ENCODER = "encoder"
_VERSION = "1"  # part of a cache entry's key; raised when a function gives other numbers
_COMPUTE: dict[str, Callable[[np.ndarray], np.ndarray]] = {"prosody": prosody_functionals, "mfcc": mfcc_statistics}
_MFCC = [f"{order}{n} {stat}" for stat in ("mean", "std") for order in ("c", "delta") for n in range(COEFFICIENTS)]
_NAMES = {"prosody": list(NAMES), "mfcc": _MFCC}


def feature_parts(features: object) -> tuple[str, ...]:
    """The parts of features, in the order of the columns.

    Raises:
        UserError: an unknown part, or one that is named twice.

    >>> feature_parts("encoder+prosody")
    ('encoder', 'prosody')
    """
    allowed = (ENCODER, *_COMPUTE)
    parts = tuple(features.split("+")) if isinstance(features, str) else ()
    if not parts or any(part not in allowed for part in parts) or len(set(parts)) < len(parts):
        raise UserError(f"features must be of {', '.join(allowed)}, each at most once, joined by +; got {features!r}")
    return parts


class FixedVectors:
    """Features of one kind with their cache.

    Args:
        kind: `prosody` or `mfcc`.
        memory_bytes: limit of the cache in memory, over the process.
        disk: the cache on disk, if any.
    """

    def __init__(self, kind: str, *, memory_bytes: int, disk: DiskCache | None):
        if memory_bytes < 0:
            raise UserError(f"memory_bytes must be at least 0, got {memory_bytes}")
        self._kind, self._memory_bytes, self._disk = kind, memory_bytes, disk

    @staticmethod
    def names(kind: str) -> list[str]:
        """Names of the columns, such as `prosody energy mean`."""
        return [f"{kind} {name}" for name in _NAMES[kind]]

    def vector(self, clip: object, *, name: str) -> Float32[np.ndarray, " dim"]:
        """The features of a clip, with its level as recorded.

        Args:
            clip: see `clips.Clip`.
            name: of the clip in an error.

        Raises:
            AudioError: a clip that cannot be used.
        """
        keeps = self._memory_bytes > 0 or self._disk is not None
        digest = content_digest(clip) if keeps else None
        waveform = None
        if keeps and digest is None:  # an open file: its key is that of its samples
            waveform = to_waveform(clip, name=name)
            digest = content_digest(waveform)
        key = None if digest is None else entry_key(digest, self._kind, pooling=_VERSION, dtype="float32")
        found = None if key is None else memory_cache().get(key)
        if found is None and key is not None and self._disk is not None:
            found = self._disk.get(key)
        if found is None:
            samples = to_waveform(clip, name=name) if waveform is None else waveform
            found = _COMPUTE[self._kind](samples)[None].astype(np.float32)
            if key is not None and self._disk is not None:
                self._disk.put(key, found)
        if key is not None:
            memory_cache().put(key, found, max_bytes=self._memory_bytes)
        return found[0]
