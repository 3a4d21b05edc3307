"""What holds for every corpus: the three names, the story, and a paragraph in data/README.md."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from speechssl.config import Config, UserError
from speechssl.data.corpora import CORPORA, CorpusInfo, corpus_root, load_corpus

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", CORPORA)
def test_a_corpus_has_what_every_corpus_has(name: str) -> None:
    module = load_corpus(name)
    assert isinstance(module.INFO, CorpusInfo)
    assert module.INFO.name == name
    assert issubclass(module.Settings, Config)
    assert module.Settings() == module.Settings()
    parameters = inspect.signature(module.prepare).parameters
    assert list(parameters)[:2] == ["root", "settings"]
    for extra in list(parameters.values())[2:]:
        assert extra.kind is inspect.Parameter.KEYWORD_ONLY
        assert extra.default is not inspect.Parameter.empty
    assert parameters["settings"].default == module.Settings()
    for word in ("Story:", "Licence(| and citation):", "(Citation|Licence and citation):"):
        assert re.search(f"^{word} ", module.__doc__, re.MULTILINE), f"{name}: {word} in the head of the module"
    story = module.INFO.story
    assert story.startswith("Synthetic" if module.INFO.synthetic else ("Real", "Any"))


@pytest.mark.parametrize("name", CORPORA)
def test_the_readme_has_every_corpus_and_its_variables(name: str) -> None:
    readme = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    section = re.search(rf"^## `{name}`.*?(?=^## |\Z)", readme, re.MULTILINE | re.DOTALL)
    assert section, f"data/README.md has no section `{name}`"
    info = load_corpus(name).INFO
    for number in (info.hours, info.utterances, info.speakers):
        if number is not None:
            assert f"{number:,}" in section[0], f"{name}: {number}"
    source = Path(load_corpus(name).__file__ or "").read_text(encoding="utf-8")
    for variable in re.findall(r"SPEECHSSL_\w+", source):
        assert variable in section[0]
    for option in load_corpus(name).Settings.model_fields:
        assert f"`{option}" in section[0], f"{name}: option {option}"


def test_unknown_names() -> None:
    with pytest.raises(UserError, match="unknown corpus 'os'; allowed: espeak, folder"):
        load_corpus("os")


def test_where_corpora_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEECHSSL_DATA", "/somewhere")
    assert corpus_root("fsdd") == Path("/somewhere/fsdd")
    monkeypatch.setenv("SPEECHSSL_DATA", "")
    assert corpus_root("fsdd") == Path("data/corpora/fsdd")


def test_naming_the_corpora_is_cheap() -> None:
    program = (
        "import sys, speechssl.data.corpora; print([m for m in ('torch', 'soundfile', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_no_corpus_needs_torch() -> None:
    for path in sorted((ROOT / "speechssl" / "data" / "corpora").glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {
            alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
        }
        assert names.isdisjoint({"torch", "torchaudio", "librosa"}), path.name
