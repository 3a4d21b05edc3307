"""A writer of CMU Sphinx's binary n-gram models, by loops, from the description in `speechssl.decoding.sphinx`."""

import math
import struct
from collections.abc import Mapping
from pathlib import Path

from speechssl.decoding.arpa import NgramModel
from speechssl.decoding.sphinx import LOG_BASE, MAGIC, TABLE


def write_sphinx(model: NgramModel, path: Path) -> None:
    """Write a model of order 2 or 3; numbers are rounded to the table's, which holds each of a small model exactly."""
    words = [word for (word,) in model.log_probs[0]]
    number = {word: place for place, word in enumerate(words)}
    # Newest word first, in sorted order: children of one n-gram are adjacent.
    grams = [sorted(tuple(number[word] for word in gram[::-1]) for gram in table) for table in model.log_probs]
    counts = [len(each) for each in grams]
    head = MAGIC + bytes([model.order]) + struct.pack(f"<{model.order}I", *counts) + struct.pack("<i", 1)
    tables: list[list[float]] = []
    for size in range(2, model.order + 1):
        tables.append(sorted(set(model.log_probs[size - 1].values())))
        if size < model.order:
            tables.append(sorted({0.0, *model.backoffs[size - 1].values()}))
    quantised = b"".join(_floats([*table, *[0.0] * (TABLE - len(table))]) for table in tables)
    levels = [_children(grams, size) for size in range(1, model.order)]
    unigrams = b""
    for word, place in [*number.items(), ("", counts[0])]:
        prob, weight = (model.log_probs[0][word,], model.backoffs[0].get((word,), 0.0)) if word else (0.0, 0.0)
        unigrams += _floats([prob, weight]) + struct.pack("<I", levels[0][place])
    packed = b""
    for size in range(2, model.order + 1):
        bits: list[str] = []
        last = size == model.order
        for place, gram in enumerate([*grams[size - 1], None]):
            name = tuple(words[each] for each in gram[::-1]) if gram else None
            fields = [(gram[-1] if gram else 0, counts[0].bit_length())]
            if not last:
                fields.append((_index(tables[2 * size - 3], model.backoffs[size - 1], name), 16))
            fields.append((_index(tables[2 * size - 4], model.log_probs[size - 1], name), 16))
            if not last:
                fields.append((levels[size - 1][place], counts[size].bit_length()))
            bits += [format(value, f"0{width}b")[::-1] for value, width in fields]
        stream = "".join(bits)
        length = (len(stream) + 7) // 8
        packed += int(stream[::-1], 2).to_bytes(length, "little") + bytes(8)
    text = b"".join(word.encode() + b"\0" for word in words)
    path.write_bytes(head + quantised + unigrams + packed + struct.pack("<i", len(text)) + text)


def _children(grams: list[list[tuple[int, ...]]], size: int) -> list[int]:
    """Place of the first child of each n-gram; and one more, the end."""
    return [sum(child[:size] < gram for child in grams[size]) for gram in grams[size - 1]] + [len(grams[size])]


def _index(table: list[float], values: Mapping[tuple[str, ...], float], name: tuple[str, ...] | None) -> int:
    return 0 if name is None else table.index(values.get(name, 0.0))


def _floats(values: list[float]) -> bytes:
    return struct.pack(f"<{len(values)}f", *(value / math.log10(LOG_BASE) for value in values))
