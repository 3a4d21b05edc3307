"""Files that claim what they do not hold: each a small model of some kind, with one thing changed.

A maker gets a folder and gives the path to open. None of the files takes more than some megabytes on disk.
"""

import argparse
import functools
import io
import json
import os
import pickle
import struct
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from speechssl.models.classifier import ClassifierConfig
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.storage import save_model
from tests.interop.exported import PRE, classifier_folder
from tests.interop.test_fairseq import LARGE, SETTINGS, as_args, their_names
from tests.interop.theirs import make, save
from tests.toys import MICRO_ENCODER

Maker = Callable[[Path], Path]


def _kept(make_folder: Callable[[Path], object]) -> Maker:
    """A maker that makes its folder once, and copies it."""

    @functools.cache
    def files() -> dict[str, bytes]:
        with tempfile.TemporaryDirectory() as place:
            make_folder(Path(place))
            return {path.name: path.read_bytes() for path in Path(place).iterdir()}

    def maker(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files().items():
            (folder / name).write_bytes(content)
        return folder

    return maker


own = _kept(lambda folder: save_model(folder, SpeechEncoder(MICRO_ENCODER)))
hub = _kept(lambda folder: save(make("wav2vec2 layer"), folder))
head = _kept(lambda folder: classifier_folder(folder, PRE, ClassifierConfig()))


@functools.cache
def _weights() -> dict[str, torch.Tensor]:
    return their_names(make("wav2vec2 layer"))


def checkpoint() -> dict[str, Any]:
    return as_args(SETTINGS | LARGE) | {"model": dict(_weights())}


def state_dict() -> dict[str, torch.Tensor]:
    return dict(make("wav2vec2 layer").state_dict())


# JSON


def _settings(base: Maker, change: Callable[[dict[str, Any]], object]) -> Maker:
    def maker(folder: Path) -> Path:
        path = base(folder) / "config.json"
        content = json.loads(path.read_text())
        changed = change(content)
        path.write_text(json.dumps(content if changed is None else changed))
        return folder

    return maker


def _text(base: Maker, name: str, text: str) -> Maker:
    def maker(folder: Path) -> Path:
        (base(folder) / name).write_text(text)
        return folder

    return maker


def _at(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    *tables, last = path.split(".")

    def change(content: dict[str, Any]) -> None:
        table = content
        for key in tables:
            table = table[key]
        table[last] = value

    return change


def _index(weight_map: object) -> Maker:
    """A folder whose weights are in shards, by an index."""

    def maker(folder: Path) -> Path:
        hub(folder)
        (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        return folder

    return maker


DEEP = "[" * 100_000 + "]" * 100_000
TABLES = '{"a":' * 100_000 + "1" + "}" * 100_000
OWN_SETTINGS = {  # a setting of ours, and values that it cannot have
    "encoder.transformer.layers": (10**9, -1, 0, 1.5, "two", None, [1], float("nan"), 10**400),
    "encoder.transformer.dim": (10**9, -32, True, {}),
    "encoder.transformer.heads": (0, -4, 7, 10**18),
    "encoder.transformer.feedforward": (10**12, 0),
    "encoder.transformer.position_kernel": (10**12,),
    "encoder.transformer.position_groups": (0, 7, 10**9),
    "encoder.transformer.position_stack": (10**9,),
    "encoder.transformer.relative_buckets": (10**12, -1),
    "encoder.transformer.dropout": (float("nan"), 2, float("inf")),
    "encoder.transformer.norm_eps": (float("nan"), 0, -1),
    "encoder.conv.layers": ([], [[1, 1]], [[24, 10**9, 40]], [[10**9, 160, 40]], [[24, 160, 10**9]], "x", 3, None),
    "encoder.conv": (None, [], 7),
    "encoder": ([], 3, "x", {"transformer": []}),
    "head": (None, [], "x"),
    "training": ([], 3),
    "format": (None, [1], 2, "1"),
}
HUB_SETTINGS = {
    "num_hidden_layers": (10**9, -1, "two", None, [12], float("nan")),
    "hidden_size": (10**9, -1, {}),
    "num_attention_heads": (0, 5, 10**18),
    "intermediate_size": (10**12,),
    "num_conv_pos_embeddings": (10**12, 0),
    "num_conv_pos_embedding_groups": (0, 7),
    "conv_dim": (None, [], 7, "abc", [16] * 10, [10**9] * 3, [[1], [2], [3]]),
    "conv_stride": ([10**9] * 3, [0, 0, 0], [-1, 1, 1]),
    "conv_kernel": ([10**9] * 3,),
    "hidden_dropout": (float("nan"), 7),
    "layer_norm_eps": (float("inf"), -1, "x"),
    "model_type": (None, [], {}, 3, "bert", "x" * 10**6, "a\x1b[2J\u202eb"),
    "hidden_act": (["gelu"], None, "x" * 10**6),
}
HEAD_SETTINGS = {
    "head.classes": ("abc", None, ["sad"] * 3, [1, 2, 3], ["x"] * 10**5, ["a", "b"], [str(n) for n in range(10**5)]),
    "head.kind": (None, [], "x" * 10**6),
    "head.config": (None, [], {"pooling": "x"}, {"dropout": float("nan")}),
    "head.network": (["logmel-cnn"], "logmel-cnn"),
}

JSON: dict[str, Maker] = {
    "own: nested lists": _text(own, "config.json", DEEP),
    "own: nested tables": _text(own, "config.json", TABLES),
    "own: deep inside": _text(own, "config.json", f'{{"format": 1, "encoder": {DEEP}}}'),
    "own: a million lists": _text(own, "config.json", f"[{'[],' * 10**6}[]]"),
    "own: an integer of a million digits": _text(own, "config.json", f'{{"format": {"1" * 10**6}, "encoder": {{}}}}'),
    "own: not text": _text(own, "config.json", "\udcff".encode("utf-8", "surrogatepass").decode("latin-1")),
    "own: null": _text(own, "config.json", "null"),
    "hub: nested lists": _text(hub, "config.json", f'{{"model_type": "wav2vec2", "a": {DEEP}}}'),
    "hub: a list": _text(hub, "config.json", '["model_type"]'),
    "hub: extractor nested": _text(hub, "preprocessor_config.json", DEEP),
    "hub: extractor a list": _text(hub, "preprocessor_config.json", "[]"),
    "hub: extractor inside a list": _text(hub, "preprocessor_config.json", '{"feature_extractor": [1]}'),
    "hub: extractor a text": _text(hub, "preprocessor_config.json", '{"do_normalize": "false"}'),
    "hub: rate a list": _text(hub, "preprocessor_config.json", f'{{"sampling_rate": {[8000] * 10**4}}}'),
    "index: a list": _index(["model-00001-of-00001.safetensors"]),
    "index: null": _index(None),
    "index: numbers": _index({"a": 1, "b": 2}),
    "index: lists": _index({"a": ["x"]}),
    "index: mixed": _index({"a": "model-00001-of-00001.safetensors", "b": None}),
    "index: outside": _index({"a": "../../../../../../etc/passwd"}),
    "index: absolute": _index({"a": "/etc/passwd"}),
    "index: itself": _index({"a": "."}),
    "index: empty name": _index({"a": ""}),
    "index: a NUL": _index({"a": "model\0.safetensors"}),
    "index: a long name": _index({"a": "x" * 10**5}),
}
JSON |= {f"own: {key} {n}": _settings(own, _at(key, v)) for key, vs in OWN_SETTINGS.items() for n, v in enumerate(vs)}
JSON |= {f"hub: {key} {n}": _settings(hub, _at(key, v)) for key, vs in HUB_SETTINGS.items() for n, v in enumerate(vs)}
HEADS = {f"{key} {n}": _settings(head, _at(key, v)) for key, vs in HEAD_SETTINGS.items() for n, v in enumerate(vs)}


# safetensors


def _bytes(base: Maker, change: Callable[[bytes], bytes]) -> Maker:
    def maker(folder: Path) -> Path:
        path = base(folder) / "model.safetensors"
        path.write_bytes(change(path.read_bytes()))
        return folder

    return maker


def _header(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def changed(content: bytes) -> bytes:
        (size,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + size])
        change(header)
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + content[8 + size :]

    return changed


def _first(**values: object) -> Callable[[bytes], bytes]:
    """Other facts of the first tensor."""
    return _header(lambda header: header[min(set(header) - {"__metadata__"})].update(values))


def _integers(folder: Path) -> Path:
    path = hub(folder) / "model.safetensors"
    save_file({name: value.to(torch.int32) for name, value in load_file(path).items()}, path)
    return folder


def _many(folder: Path) -> Path:
    path = hub(folder) / "model.safetensors"
    save_file({f"encoder.layers.{number}.x": torch.zeros(1) for number in range(20_001)}, path)
    return folder


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "a header of 2^60": lambda content: struct.pack("<Q", 1 << 60) + content[8:],
    "a header of 2^64 - 1": lambda content: b"\xff" * 8 + content[8:],
    "a header of the whole file": lambda content: struct.pack("<Q", len(content) - 8) + content[8:],
    "no header": lambda content: struct.pack("<Q", 0) + content[8:],
    "empty": lambda _: b"",
    "seven bytes": lambda content: content[:7],
    "cut": lambda content: content[: len(content) // 2],
    "longer": lambda content: content + b"\0" * 8,
    "a header of 20 MB": lambda content: struct.pack("<Q", 20_000_000) + b" " * 20_000_000 + content,
    "a header of lists": lambda content: struct.pack("<Q", 10**6) + b"[" * 10**6 + content,
    "overlap": _first(data_offsets=[0, 8]),
    "backwards": _first(data_offsets=[64, 0]),
    "outside": _first(data_offsets=[0, 1 << 50]),
    "negative": _first(data_offsets=[-8, 8]),
    "a shape of 2^40": _first(shape=[1 << 20, 1 << 20]),
    "a shape of 2^80": _first(shape=[1 << 40, 1 << 40]),
    "a negative shape": _first(shape=[-1]),
    "a shape of text": _first(shape="x"),
    "an unknown type": _first(dtype="F1"),
    "metadata of numbers": _header(lambda header: header.update(__metadata__={"a": 1})),
}
TENSORS: dict[str, Maker] = {f"own: {name}": _bytes(own, change) for name, change in CHANGES.items()}
TENSORS |= {f"hub: {name}": _bytes(hub, change) for name, change in CHANGES.items()}
TENSORS |= {"hub: integers": _integers, "hub: 20,001 tensors": _many}


# torch.save


def _saved(content: Callable[[], object], *, old: bool = False, name: str = "model.pt") -> Maker:
    def maker(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(content(), folder / name, _use_new_zipfile_serialization=not old)
        return folder / name

    return maker


def _shared(levels: int = 50) -> list[Any]:
    """Two to the power of so many values when it is written out."""
    nest: list[Any] = [1]
    for _ in range(levels):
        nest = [nest, nest]
    return nest


def _with_settings(**changes: object) -> Callable[[], object]:
    def content() -> object:
        found = checkpoint()
        return found | {"args": argparse.Namespace(**(vars(found["args"]) | changes))}

    return content


def _with_tensors(change: Callable[[dict[str, torch.Tensor]], dict[Any, Any]]) -> Callable[[], object]:
    def content() -> object:
        found = checkpoint()
        return found | {"model": change(found["model"])}

    return content


def _rezipped(
    change: Callable[[str, bytes], tuple[str, bytes]], *, how: int = zipfile.ZIP_STORED, name: str = "model.pt"
) -> Maker:
    """A checkpoint whose archive is written anew."""

    def maker(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        torch.save(checkpoint(), buffer)
        with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(folder / name, "w", how) as target:
            for member in source.namelist():
                target.writestr(*change(member, source.read(member)))
        return folder / name

    return maker


def _bomb(folder: Path) -> Path:
    """Some kilobytes that unpack to 400 MB of a pickle."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "model.pt", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("model/data.pkl", "w", force_zip64=True) as file:
            for _ in range(400):
                file.write(b"]" * 2**20)
        archive.writestr("model/version", "3\n")
    return folder / "model.pt"


def _members(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "model.pt", "w") as archive:
        for number in range(50_000):
            archive.writestr(f"model/data/{number:060}", b"")
    return folder / "model.pt"


def _pickle(content: bytes, *, bin_file: bool = False) -> Maker:
    """An archive as torch writes it, with these instructions in it."""

    def maker(folder: Path) -> Path:
        if bin_file:
            (hub(folder) / "model.safetensors").unlink()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / ("pytorch_model.bin" if bin_file else "model.pt")
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("model/data.pkl", content)
            archive.writestr("model/byteorder", "little")
            archive.writestr("model/version", "3\n")
            archive.writestr("model/data/0", b"\0" * 64)
        return folder if bin_file else path

    return maker


def _storage(numbers: int, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    """Instructions for ``{"model": {"a": tensor}}`` with a storage that claims so many numbers."""

    def whole(number: int) -> bytes:
        content = number.to_bytes(9, "little", signed=True)
        return b"\x8a" + bytes([len(content)]) + content

    def row(numbers: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(whole(number) for number in numbers) + b"t"

    def text(words: str) -> bytes:
        return b"X" + struct.pack("<I", len(words)) + words.encode()

    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + whole(numbers) + b"tQ"
    rest = b"\x89ccollections\nOrderedDict\n)R"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + whole(offset) + row(size) + row(stride) + rest + b"tR"
    return b"\x80\x02}" + text("model") + b"}" + text("a") + tensor + b"ss."


class _Call:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("true",)


def _unsafe(folder: Path) -> Path:
    (hub(folder) / "model.safetensors").unlink()
    torch.save({"a": _Call()}, folder / "pytorch_model.bin")
    return folder


def _scripted(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "model.pt", "w") as archive:
        archive.writestr("model/data.pkl", b"\x80\x02}.")
        archive.writestr("model/constants.pkl", b"\x80\x02).")
        archive.writestr("model/version", "3\n")
    return folder / "model.pt"


def _stretched(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Each of 2^40 numbers over one that is there."""
    return {name: torch.zeros(1).expand(1 << 40) for name in tensors}


PICKLES: dict[str, Maker] = {
    "shared settings": _saved(_with_settings(extra=_shared())),
    "shared settings in a setting": _saved(_with_settings(activation_fn=_shared(16))),
    "shared settings in an old file": _saved(_with_settings(extra=_shared()), old=True),
    "lists without an end": _pickle(b"\x80\x02" + b"]" * 10**6),
    "a bomb": _bomb,
    "compressed": _rezipped(lambda name, content: (name, content), how=zipfile.ZIP_DEFLATED),
    "two data.pkl": _rezipped(lambda name, content: (name.replace("version", "other/data.pkl"), content)),
    "no data.pkl": _rezipped(lambda name, content: (name.replace("data.pkl", "data.txt"), content)),
    "50,000 members": _members,
    "a script": _scripted,
    "two million instructions": _pickle(b"\x80\x02" + b"]0" * 10**6 + b"}."),
    "an integer of 80 bits": _pickle(b"\x80\x02\x8a\x0b" + b"\x01" * 11 + b"."),
    "a text of 2^31 bytes": _pickle(b"\x80\x02X\xff\xff\xff\x7fabc."),
    "a text of 2^62 bytes": _pickle(b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"abc."),
    "a memo of 2^31": _pickle(b"\x80\x02}r\xff\xff\xff\x7f."),
    "a long name": _pickle(b"\x80\x02c" + b"x" * 10**6 + b"\ny\n."),
    "a storage of 2^40": _pickle(_storage(1 << 40, (1 << 40,), (1,))),
    "a storage of 2^62": _pickle(_storage(1 << 62, (1 << 62,), (1,))),
    "a storage below zero": _pickle(_storage(-16, (4,), (1,))),
    "a size of 2^40": _pickle(_storage(16, (1 << 40,), (1,))),
    "a size of 2^40 in steps of zero": _pickle(_storage(16, (1 << 20, 1 << 20), (0, 0))),
    "a negative size": _pickle(_storage(16, (-4,), (1,))),
    "negative steps": _pickle(_storage(16, (4,), (-1,), 8)),
    "a negative offset": _pickle(_storage(16, (4,), (1,), -8)),
    "tensors of one number": _saved(_with_tensors(_stretched)),
    "tensors on no device": _saved(
        _with_tensors(lambda tensors: {name: torch.zeros(1 << 40, device="meta") for name in tensors})
    ),
    "sparse tensors": _saved(_with_tensors(lambda tensors: {name: torch.eye(3).to_sparse() for name in tensors})),
    "integers": _saved(_with_tensors(lambda tensors: {name: value.int() for name, value in tensors.items()})),
    "numbers for names": _saved(_with_tensors(lambda tensors: dict(enumerate(tensors.values())))),
    "a billion layers": _saved(_with_settings(encoder_layers=10**9)),
    "a billion dimensions": _saved(_with_settings(encoder_embed_dim=10**9)),
    "layers times times": _saved(_with_settings(conv_feature_layers="[(1,1,1)]" + "*99" * 9)),
    "layers in parentheses": _saved(_with_settings(conv_feature_layers="(" * 900 + ")" * 900)),
    "a text of a million layers": _saved(_with_settings(conv_feature_layers="[(1,1,1)]" + "+[(1,1,1)]" * 10**5)),
    "infinite": _saved(_with_settings(dropout=float("inf"))),
    "stride of a billion": _saved(_with_settings(conv_feature_layers="[(16,10,999999)]*3")),
    "no numbers": _saved(_with_settings(encoder_layers={"a": [1]}, dropout=None)),
    "unsafe": _saved(lambda: {"model": _Call()}),
    "unsafe and old": _saved(lambda: {"model": _Call()}, old=True),
    "unsafe bin": _unsafe,
    "bin: a storage of 2^40": _pickle(_storage(1 << 40, (1 << 40,), (1,)), bin_file=True),
    "bin: two million instructions": _pickle(b"\x80\x02" + b"]0" * 10**6 + b"}.", bin_file=True),
    "torchaudio: stretched": _saved(lambda: _stretched({"encoder.transformer.layer_norm.bias": torch.zeros(1)})),
    "torchaudio: more than tensors": _saved(lambda: {"encoder.transformer.layer_norm.bias": _shared()}),
    "a pickle alone": lambda folder: _written(folder, pickle.dumps({"model": {}})),
    "a tar": lambda folder: _written(folder, b"storages".ljust(257, b"\0") + b"ustar\x0000".ljust(2000, b"\0")),
}


def _written(folder: Path, content: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.pt").write_bytes(content)
    return folder / "model.pt"
