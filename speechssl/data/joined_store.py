"""Several prepared corpora as one, for training on recordings of more than one of them."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from jaxtyping import Float32, Shaped

from speechssl.config import digest
from speechssl.data.marks import Values, up_to
from speechssl.data.store import WaveformStore


class JoinedStore(WaveformStore):
    """The utterances of several prepared corpora, one corpus after the other; nothing is copied.

    Args:
        stores: the corpora; messages name the folder of the first.

    Attributes:
        first: index of the first utterance of each corpus.
    """

    def __init__(self, stores: Sequence[WaveformStore]) -> None:
        self.stores = list(stores)
        self.folder = self.stores[0].folder
        self.utterances = [each for store in self.stores for each in store.utterances]
        self.lengths = np.concatenate([store.lengths for store in self.stores])
        self.gains = [gain for store in self.stores for gain in store.gains]
        ends = np.cumsum([len(store) for store in self.stores])
        self.first: list[int] = [0, *ends[:-1].tolist()]

    @property
    def is_remote(self) -> bool:
        """Whether samples of some corpus are read from a server."""
        return any(store.is_remote for store in self.stores)

    def content_hash(self) -> str:
        """Sixteen hexadecimal digits that change with the samples of any corpus, or their order."""
        return digest([store.content_hash() for store in self.stores])

    def content_ids(self) -> list[str]:
        """Digests of the samples of each utterance; see `WaveformStore.content_ids`."""
        return [each for store in self.stores for each in store.content_ids()]

    def marks(self, indices: Sequence[int]) -> list[Values]:
        """The marks of some utterances at the level of all corpora together; see `WaveformStore.marks`."""
        places = [self._place(index) for index in indices]
        found: dict[tuple[int, int], Values] = {}
        for number, store in enumerate(self.stores):
            own = sorted({index for part, index in places if part == number})
            marks = [up_to(each, self.level) for each in store.marks(own)]
            found.update(zip([(number, index) for index in own], marks, strict=True))
        return [found[place] for place in places]

    def read(self, index: int, start: int = 0, stop: int | None = None) -> Shaped[np.ndarray, " samples"]:
        """A stretch of one utterance as it is stored; see `WaveformStore.read`."""
        part, own = self._place(index)
        return self.stores[part].read(own, start, stop)

    def gain(self, index: int) -> float | None:
        """Factor of an utterance's stored samples; see `WaveformStore.gain`."""
        part, own = self._place(index)
        return self.stores[part].gain(own)

    def waveform(self, index: int, start: int = 0, stop: int | None = None) -> Float32[np.ndarray, " samples"]:
        """A stretch of one utterance; see `WaveformStore.waveform`."""
        part, own = self._place(index)
        return self.stores[part].waveform(own, start, stop)

    def verify(self) -> None:
        """Reads all samples of all corpora and compares the checksums."""
        for store in self.stores:
            store.verify()

    def __reduce__(self) -> tuple[partial["JoinedStore"], tuple[list[WaveformStore]]]:  # pyright: ignore[reportIncompatibleMethodOverride] -- a list of corpora instead of a folder
        return partial(JoinedStore), (self.stores,)

    def _place(self, index: int) -> tuple[int, int]:
        """Number of the corpus, and the utterance's index in it."""
        if not 0 <= index < len(self):
            raise IndexError(f"utterance {index} of a corpus with {len(self)}")
        part = int(np.searchsorted(self.first, index, side="right")) - 1
        return part, index - self.first[part]
