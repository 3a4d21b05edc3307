r"""The binary n-gram models of CMU Sphinx ("Trie Language Model"), as the `pocketsphinx` package brings one.

The layout is that of sphinxbase's `ngram_model_trie.c`, `lm_trie.c` and `lm_trie_quant.c` (BSD licence), little-endian:

    "Trie Language Model", order (1 byte), number of n-grams of each length (4 bytes each)
    4 bytes; tables of 2^16 single-precision numbers: probabilities and back-off weights of each middle length, and
    probabilities of the longest
    1-grams: probability, back-off weight (single precision), first child (4 bytes); and one more, the end
    n-grams of each longer length, in bits: word, then table index of the back-off weight and of the probability (16
    each; the longest have a probability alone), then first child (the longest have none); and one more
    length of the words (4 bytes), words, each with a zero byte

An n-gram's children are the n-grams with one older word: the trie is read from the newest word to the oldest.
Logarithms have the base 1.0001.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from speechssl.config import UserError
from speechssl.decoding.arrays import NgramArrays, Numbers, Rows, from_rows

MAGIC = b"Trie Language Model"
LOG_BASE = 1.0001
TABLE = 1 << 16  # entries of a table of quantised numbers
_UNIGRAM = np.dtype([("prob", "<f4"), ("backoff", "<f4"), ("child", "<u4")])
_TAIL = 8  # bytes after each length, so that eight can be read from anywhere
_HIGHEST_ORDER = 5


def read_sphinx(path: Path) -> NgramArrays:
    """Read a binary model of CMU Sphinx.

    Raises:
        UserError: no such file, not such a model, or cut short.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: the language model cannot be read ({error.strerror})") from None
    if not data.startswith(MAGIC):
        raise UserError(f"{path}: not a binary language model of CMU Sphinx")
    try:
        return _read(data)
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: damaged, or cut short ({error})") from None


def _read(data: bytes) -> NgramArrays:
    order = data[len(MAGIC)]
    if not 2 <= order <= _HIGHEST_ORDER:
        raise ValueError(f"order {order}; 2 to {_HIGHEST_ORDER} can be read")
    counts = np.frombuffer(data, "<u4", order, len(MAGIC) + 1).tolist()
    place = len(MAGIC) + 1 + 4 * order + 4
    tables = np.frombuffer(data, "<f4", (2 * order - 3) * TABLE, place).reshape(-1, TABLE).astype(np.float64)
    place += tables.size * 4
    unigrams = np.frombuffer(data, _UNIGRAM, counts[0] + 1, place)
    place += unigrams.nbytes
    decimal = np.log10(LOG_BASE)
    rows: list[Rows] = [np.arange(counts[0], dtype=np.int64)[:, None]]
    probs: list[Numbers] = [unigrams["prob"][:-1].astype(np.float64) * decimal]
    backoffs: list[Numbers] = [unigrams["backoff"][:-1].astype(np.float64) * decimal]
    children = unigrams["child"].astype(np.int64)
    for size in range(2, order + 1):
        word_bits = counts[0].bit_length()
        child_bits = counts[size].bit_length() if size < order else 0
        bits = word_bits + (32 if size < order else 16) + child_bits
        length = ((1 + counts[size - 1]) * bits + 7) // 8 + _TAIL
        packed = np.frombuffer(data, np.uint8, length, place)
        place += length
        # The header's number may be higher than the real one: sphinxbase counts some n-grams that it adds twice.
        many = int(children[-1])
        if children[0] != 0 or many > counts[size - 1] or (np.diff(children) < 0).any():
            raise ValueError(f"n-grams of {size} words do not fit those of {size - 1}")
        starts = np.arange(many + 1, dtype=np.int64) * bits
        words = _bits(packed, starts[:-1], word_bits)
        # Rows have the newest word first; each n-gram has one parent, in whose range of children it is.
        parents = np.repeat(np.arange(len(children) - 1), np.diff(children))
        rows.append(np.concatenate([rows[-1][parents], words[:, None]], axis=1))
        first = starts[:-1] + word_bits
        if size < order:
            backoffs.append(tables[2 * size - 3][_bits(packed, first, 16)] * decimal)
            probs.append(tables[2 * size - 4][_bits(packed, first + 16, 16)] * decimal)
            children = _bits(packed, starts + word_bits + 32, child_bits)
        else:
            backoffs.append(np.zeros(many))
            probs.append(tables[-1][_bits(packed, first, 16)] * decimal)
    text = data[place + 4 : place + 4 + int(np.frombuffer(data, "<u4", 1, place)[0])].decode()
    names = text.split("\0")[:-1]
    if len(names) != counts[0] or len(set(names)) != counts[0]:
        raise ValueError(f"{len(names)} words for {counts[0]} 1-grams")
    return from_rows(names, [each[:, ::-1] for each in rows], probs, backoffs)


def _bits(
    packed: UInt8[np.ndarray, " bytes"], starts: Int64[np.ndarray, " ngrams"], bits: int
) -> Int64[np.ndarray, " ngrams"]:
    """Numbers of up to 32 bits that start at any bit, lowest bit first."""
    first, value = starts >> 3, np.zeros(len(starts), dtype=np.int64)
    for byte in range(5):
        value |= packed[first + byte].astype(np.int64) << (8 * byte)
    return (value >> (starts & 7)) & ((1 << bits) - 1)
