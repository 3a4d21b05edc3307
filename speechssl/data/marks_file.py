"""The marks of a prepared corpus in a file, so that its samples need not be read for them: `marks.npz`.

A shard has its marks at the level of its own length. Those of the whole corpus, of a higher level, are among them.
"""

import io
from collections.abc import Sequence

import numpy as np

from speechssl.config import UserError
from speechssl.data.locations import Location, read_location
from speechssl.data.marks import Values, up_to

MARKS = "marks.npz"


def marks_bytes(recordings: Sequence[Values], content: str, *, level: int) -> bytes:
    """The content of the file.

    Args:
        recordings: the marks of each utterance of the corpus.
        content: the corpus's `content_hash`.
        level: of the marks.
    """
    file = io.BytesIO()
    np.savez(
        file,
        values=np.concatenate([np.zeros(0, dtype="<u8"), *recordings]).astype("<u8"),
        counts=np.array([len(each) for each in recordings], dtype=np.int64),
        level=np.array(level),
        content=np.array(content),
    )
    return file.getvalue()


def read_marks(folder: Location, content: str, *, level: int) -> list[Values] | None:
    """The marks of each utterance of a corpus.

    Args:
        folder: of the corpus.
        content: its `content_hash`.
        level: marks up to this level are given.

    Returns:
        None where there is no file, or one of other samples or a higher level.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / MARKS
    try:
        with np.load(io.BytesIO(read_location(path)), allow_pickle=False) as file:
            values, counts, own, of = (file[name] for name in ("values", "counts", "level", "content"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, EOFError, OSError) as error:
        raise UserError(f"{path}: damaged ({' '.join(str(error).split())}); remove it") from error
    if str(of) != content or int(own) > level:
        return None
    ends = np.cumsum(counts)
    return [up_to(values[end - count : end], level) for end, count in zip(ends, counts, strict=True)]
