"""The layers of the package: a file imports from its own folder and from lower layers only.

    6  cli/  info.py  __main__.py                       (cli imports info)
    5  experiments/  hear.py  xares.py  mteb.py     (the last three: APIs of benchmarks)
    4  train/  embed/  extract/  report/                (none imports another)
    3  models/  objectives/  inference/  interop/        (each imports models; no other imports another)
    2  data/  nn/  metrics/  decoding/                 (none imports another)
    1  answers.py  audio/  config.py  device.py  distributed.py  files.py  terminal.py  text.py

`speechssl/__init__.py` is in no layer: it names what it loads lazily.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import speechssl

PACKAGE = Path(speechssl.__file__).parent
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
LAYERS = {
    1: {"answers", "audio", "config", "device", "distributed", "files", "terminal", "text"},
    2: {"data", "nn", "metrics", "decoding"},
    3: {"models", "objectives", "inference", "interop"},
    4: {"train", "embed", "extract", "report"},
    5: {"experiments", "hear", "xares", "mteb"},
    6: {"cli", "info", "__main__"},
}
LAYER_OF = {package: layer for layer, packages in LAYERS.items() for package in packages}
# Packages and files of the same layer that may be imported: importer -> imported.
SAME_LAYER = {
    "objectives": {"models"},
    "inference": {"models"},
    "interop": {"models"},
    "audio": {"config"},
    "config": {"terminal"},
    "device": {"config"},
    "text": {"config"},
    "files": {"config"},
    "distributed": {"device", "files"},
    "terminal": {"files"},
    "__main__": {"cli"},
    "cli": {"info"},
    "xares": {"hear"},
}
# Slow to import, or bound to one version of torch: only inside the functions that use them.
LAZY = {"torchaudio", "librosa", "matplotlib", "sklearn", "jiwer", "kenlm", "flashlight", "pyarrow", "pandas"}
LAZY |= {"h5py", "zarr", "onnx", "onnxruntime", "onnxscript", "ray", "fsspec", "aiohttp", "huggingface_hub"}  # extras
# A class needs its base when it is made; the file itself is loaded when it is first asked for.
EARLY = {"speechssl.embed.estimator": {"sklearn"}}
# What starts at once must not pull in torch.
WITHOUT_TORCH = [
    "__main__.py",
    "config.py",
    "files.py",
    "terminal.py",
    "data/__init__.py",
    "data/manifest.py",
]


def package_of(module: str) -> str:
    """The folder or file directly below `speechssl`: `data` for `speechssl.data.manifest`."""
    return module.split(".")[1]


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def absolute(node: ast.ImportFrom, module: str, *, is_package: bool) -> str:
    """The full name of what `from … import` names, dots resolved."""
    if node.level == 0:
        return node.module or ""
    parts = module.split(".")
    base = parts[: len(parts) - node.level + (1 if is_package else 0)]
    return ".".join([*base, *([node.module] if node.module else [])])


def imports(tree: ast.AST, module: str, *, is_package: bool) -> Iterator[str]:
    """Every module that is named in an import statement below `tree`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node, module, is_package=is_package)
            yield from (f"{base}.{alias.name}" if base == "speechssl" else base for alias in node.names)


def wrong_layer(module: str, imported: Iterator[str]) -> list[str]:
    """What a module imports from a higher layer, or without leave from its own."""
    package = package_of(module)
    allowed = {package} | SAME_LAYER.get(package, set())
    allowed |= {other for other, layer in LAYER_OF.items() if layer < LAYER_OF[package]}
    ours = [name for name in imported if name.split(".")[0] == "speechssl" and "." in name]
    return [name for name in ours if package_of(name) not in allowed and name != "speechssl.__version__"]


def at_import_time(tree: ast.Module) -> Iterator[ast.AST]:
    """The parts that run when the file is imported: not the bodies of functions, not `if TYPE_CHECKING`."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            waiting += node.orelse
            continue
        yield node
        waiting += ast.iter_child_nodes(node)


def early_imports(tree: ast.Module, module: str, *, is_package: bool) -> set[str]:
    """The top-level packages that importing the file imports."""
    nodes = [node for node in at_import_time(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    return {name.split(".")[0] for node in nodes for name in imports(node, module, is_package=is_package)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_file(path: Path) -> None:
    module, is_package = module_of(path), path.name == "__init__.py"
    assert package_of(module) in LAYER_OF, f"{path.name} is in no layer"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert wrong_layer(module, imports(tree, module, is_package=is_package)) == []
    stars = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.names[0].name == "*"]
    assert stars == []
    assert early_imports(tree, module, is_package=is_package) & LAZY == EARLY.get(module, set())


@pytest.mark.parametrize(
    "path",
    [
        *(PACKAGE / name for name in WITHOUT_TORCH),
        *sorted((PACKAGE / "cli").glob("*.py")),
        *sorted((PACKAGE / "audio").glob("*.py")),
        *sorted((PACKAGE / "data" / "corpora").glob("*.py")),
    ],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_starts_without_torch(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert "torch" not in early_imports(tree, module_of(path), is_package=path.name == "__init__.py")


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("speechssl.nn.conv", "import speechssl.models.encoder", ["speechssl.models.encoder"]),
        ("speechssl.nn.conv", "from speechssl.data import manifest", ["speechssl.data"]),
        ("speechssl.nn.conv", "from speechssl import train", ["speechssl.train"]),
        ("speechssl.nn.conv", "from ..train import loop", ["speechssl.train"]),
        ("speechssl.nn.conv", "def f():\n    from speechssl.embed import embedder", ["speechssl.embed"]),
        ("speechssl.train.loop", "from speechssl.embed.embedder import load", ["speechssl.embed.embedder"]),
        ("speechssl.models.encoder", "import speechssl.objectives.wav2vec2", ["speechssl.objectives.wav2vec2"]),
        ("speechssl.objectives.wav2vec2", "import speechssl.models.encoder, speechssl.nn.conv, torch", []),
        ("speechssl.nn.conv", "from . import masking\nfrom speechssl.config import Config", []),
        ("speechssl.cli", "from speechssl import __version__", []),
    ],
)
def test_the_rule_itself(module: str, source: str, wrong: list[str]) -> None:
    assert wrong_layer(module, imports(ast.parse(source), module, is_package=False)) == wrong


def test_import_time_is_seen_through_blocks() -> None:
    source = "try:\n    import librosa\nexcept ImportError:\n    import torchaudio\nclass A:\n    import sklearn\n"
    source += "def f():\n    import matplotlib\nif TYPE_CHECKING:\n    import pyarrow\n"
    found = early_imports(ast.parse(source), "speechssl.nn.conv", is_package=False)
    assert found == {"librosa", "sklearn", "torchaudio"}
