"""Clips in the rows of a table or an array, as scikit-learn hands them over."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from torch import Tensor

from speechssl.config import UserError
from speechssl.embed.clip_forms import array_of, arrow_values, columns_of, is_arrow, is_number
from speechssl.embed.clips import each, is_single


def rows_of(clips: object) -> Sequence[object]:
    """The clips of a table's column or of an array, one per row, not decoded: scikit-learn's X.

    Args:
        clips: a list, array, Series or one-column table of clips, or numbers in two dimensions, one waveform per row.

    Raises:
        UserError: anything else; its message says what was given.

    >>> rows_of(np.array([["a.wav"], ["b.wav"]])), len(rows_of(np.zeros((3, 16000))))
    (['a.wav', 'b.wav'], 3)
    """
    rows: Any = clips
    if hasattr(rows, "toarray"):
        raise UserError("X: a sparse matrix; a row of X is a path, a waveform or another clip")
    columns = columns_of(rows)
    if columns is not None and not hasattr(rows, "to_numpy"):  # of pyarrow or datasets
        if len(columns) != 1:
            kind = type(rows).__name__
            raise UserError(f"X: a {kind} of {len(columns)} columns ({', '.join(columns)}); give the one of clips")
        rows = rows[columns[0]]
    elif columns is not None:
        rows = rows[rows.columns[0]] if len(columns) == 1 else rows.to_numpy()
    if is_arrow(rows):
        return list(arrow_values(rows))
    lists = [row for row in cast("list[Any]", rows) if isinstance(row, list)] if isinstance(rows, list) else []
    # Lists of different lengths are no array; each gets its own error.
    nested = len({len(row) for row in lists}) == 1 and len(lists) == len(rows) and is_number(next(iter(lists[0]), None))
    if isinstance(rows, Tensor):
        rows = array_of(rows)
    elif nested or (hasattr(rows, "__array__") and not hasattr(rows, "items")):  # a Series is iterated over
        rows = np.asarray(rows)
    if isinstance(rows, np.ndarray):
        return _rows_of_array(rows)
    if is_single(rows):
        raise UserError("X: one clip; give a list of clips, [clip] for this one")
    return list(each(rows))


def _rows_of_array(array: np.ndarray) -> Sequence[object]:
    numbers = array.dtype.kind not in "OSU"
    if not numbers and array.ndim == 2 and array.shape[1] != 1:
        try:
            array, numbers = array.astype(np.float64), True
        except (TypeError, ValueError) as error:
            raise UserError(
                f"X: {array.shape[1]} columns that are no samples; choose the one of clips ({error})"
            ) from None
    if not numbers and array.ndim in (1, 2):
        return array.ravel().tolist()
    if array.dtype.kind == "c":
        raise UserError("X: Complex data not supported; a row is a path, a waveform or another clip")
    if array.ndim != 2:
        raise UserError(
            f"X: numbers of shape {array.shape}; need one waveform per row, (clips, samples). "
            "Reshape your data, or give [samples] for one clip"
        )
    if array.shape[1] == 0:
        raise UserError(f"X: 0 feature(s) (shape={array.shape}) while a minimum of 1 is required; a row is a waveform")
    return list(array)
