"""Names of splits, and the utterances of one."""

import functools
import re
from collections.abc import Sequence

from speechssl.config import UserError
from speechssl.data.utterance import Utterance

_SPLIT = re.compile(
    r"(?:(train)(?:ing)?|(dev)(?:el(?:opment)?)?|(val)(?:id(?:ation)?)?|(eval)(?:uation)?|(test)(?:ing)?)"
    r"[-_ ]?(?:set|split)?",
    re.IGNORECASE,
)


@functools.cache  # few names of folders and splits
def split_kind(name: str) -> str | None:
    """Kind of split by its name: train, dev, val, eval or test; None for any other name.

    >>> [split_kind(name) for name in ("Train", "devel", "validation", "test_set", "trainset", "train-clean", "tests")]
    ['train', 'dev', 'val', 'test', 'train', None, None]
    """
    found = _SPLIT.fullmatch(name)
    return None if found is None else next(filter(None, found.groups())).lower()


def in_split(utterances: Sequence[Utterance], split: str | None, *, where: object) -> list[int]:
    """Places of the utterances of a split, ignoring capitals, or of all where `split` is None.

    Args:
        utterances: of a corpus.
        split: its name.
        where: the corpus, for the message.

    Raises:
        UserError: no utterance has this split; names the existing ones.

    >>> few = [Utterance(audio=f"{name}.wav", duration=1, split=name) for name in ("train", "Test", "test")]
    >>> in_split(few, "TEST", where="corpus")
    [1, 2]
    """
    found = [place for place, each in enumerate(utterances) if each.in_split(split)]
    if not found and split is not None:
        splits = sorted({each.split for each in utterances if each.split is not None})
        raise UserError(f"{where}: no split {split!r}; there are {', '.join(splits) or 'none'}")
    return found
