"""The site of docs/: it is built strictly and without a network, its commands and code run, its tables are right."""

import doctest
import importlib.util
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydantic
import pytest
import soundfile

from speechssl import cli
from speechssl.models.encoder import PRESETS as ENCODERS
from speechssl.models.encoder import SpeechEncoder
from speechssl.objectives import OBJECTIVES, wav2vec2
from tests.shown import at_toy_size, commands, public_model

REPOSITORY = Path(__file__).parent.parent
DOCS = REPOSITORY / "docs"
ELSEWHERE = ["data.md", "formats.md"]  # tests/test_docs.py, tests/data/corpora/test_format_docs.py
SHOWN = re.compile(r"^```(sh|python)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
PAGES = {
    str(path.relative_to(DOCS)): path.read_text(encoding="utf-8")
    for path in sorted(DOCS.rglob("*.md"))
    if path.name not in ELSEWHERE
}
QUICK = {"getting-started.md"}  # every other page trains or exports
MADE = sorted({line for text in PAGES.values() for line in commands(text) if line.startswith("make ")})


def run_shell(line: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run one line of a page; what make does is checked by `test_make`."""
    if line.startswith("make "):
        return
    if line.startswith("find "):
        found, line = line.replace("~", str(here)).split(" | ")
        listed = subprocess.run(shlex.split(found), capture_output=True, text=True, check=True, timeout=60).stdout
        monkeypatch.setattr("sys.stdin", io.StringIO(listed))
    torchrun, _, rest = line.partition(" -m speechssl ")
    words = shlex.split(rest) if torchrun.startswith("torchrun ") else shlex.split(line)[1:]
    assert line.startswith(("speechssl ", "torchrun ")), f"no test knows how to run {line!r}"
    assert cli.main(at_toy_size([word.replace("hf:facebook/wav2vec2-base", f"{here}/hub") for word in words])) == 0


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=() if page in QUICK else pytest.mark.slow)
        for page, text in PAGES.items()
        if SHOWN.search(text)
    ],
)
def test_what_a_page_shows_runs(
    page: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    public_model(home / "hub")
    soundfile.write("call.wav", 0.1 * np.sin(np.arange(16_000) / 10), 16_000)
    Path("recipes").symlink_to(REPOSITORY / "recipes")
    for language, source in SHOWN.findall(PAGES[page]):
        if language == "python":
            exec(compile(source, page, "exec"), {})
        for line in source.splitlines() if language == "sh" else []:
            run_shell(line, home, monkeypatch)
    assert "Traceback" not in capsys.readouterr().err


def test_files_that_pages_name_exist() -> None:
    named = re.compile(r"`((?:benchmarks|data|recipes|speechssl|tests)/[\w./-]+)`")
    found = {name for text in PAGES.values() for name in named.findall(text)}
    assert len(found) > 5
    assert [name for name in sorted(found) if not (REPOSITORY / name).exists()] == []


@pytest.mark.parametrize("line", MADE)
def test_make(line: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    clean = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    words = shlex.split(line.replace("runs/demo/pretrain", str(tmp_path)))
    done = subprocess.run(
        [words[0], "-n", "READY=", f"VENV={tmp_path}", *words[1:]],
        cwd=REPOSITORY,
        env=clean,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert " -m speechssl " in done.stdout or words[1] == "setup"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    # No proxy answers there: whatever asks the network fails.
    clean = os.environ | {f"{name}_proxy": "http://127.0.0.1:9" for name in ("http", "https")}
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        words, cwd=REPOSITORY, env=clean | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_the_site_is_complete(site: Path) -> None:
    for page in (*PAGES, *ELSEWHERE):
        assert (site / page).with_suffix(".html").is_file(), page
    reference = {path.stem: path.read_text(encoding="utf-8") for path in (site / "reference").glob("*.html")}
    names = ["speechssl.load", "speechssl.embed.embedder.EmbeddingModel.embed", "speechssl.Embedder.fit"]
    assert [name for name in names if f'id="{name}"' not in reference["embeddings"]] == []
    assert 'id="speechssl.data.manifest.Utterance"' in reference["data"]
    assert "Parameters:" in reference["extraction"]
    assert "Examples:" in reference["embeddings"]
    assert "contrastive accuracy .32" in (site / "objectives" / "wav2vec2.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_nothing_is_loaded_from_the_network(site: Path) -> None:
    loaded = re.compile(r"<(?:script|img|iframe|source|link)\b[^>]*?\b(?:src|href)=[\"']?((?:https?:)?//[^\"' >]+)")
    found = {path.name: loaded.findall(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    assert len(found) > len(ELSEWHERE)
    assert {name: addresses for name, addresses in found.items() if addresses} == {}


def test_make_docs_builds_strictly() -> None:
    done = subprocess.run(
        ["make", "--no-print-directory", "-n", "READY=", "docs"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert " -m mkdocs build --strict" in done.stdout


def rows(text: str, columns: int) -> list[list[str]]:
    """The rows of the tables with a number of columns whose first cell is code."""
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:3] == "| `"]
    return [row for row in found if len(row) == columns]


def flat(config: pydantic.BaseModel, prefix: str = "") -> dict[str, object]:
    """Every setting by its name on the command line."""
    values: dict[str, object] = {}
    for name, value in config:
        values |= flat(value, f"{name}.") if isinstance(value, pydantic.BaseModel) else {prefix + name: value}
    return values


def test_settings_of_wav2vec2() -> None:
    table = {row[0].strip("`"): row[1:5] for row in rows(PAGES["objectives/wav2vec2.md"], 6)}
    presets = [flat(wav2vec2.PRESETS[size]) for size in ("tiny", "small", "base", "large")]
    assert list(table) == [name for name in presets[0] if name != "name" and not name.startswith("symptoms.")]
    for name, shown in table.items():
        values = ["none" if each[name] is None else str(each[name]).lower() for each in presets]
        assert shown == values, name


def test_symptoms_of_wav2vec2() -> None:
    text = PAGES["objectives/wav2vec2.md"]
    table = re.findall(r"^\| ([a-z ]+) \| [^|]+ \| (`\w+`(?:, `\w+`)*) \|$", text, flags=re.MULTILINE)
    assert sorted(state for state, _ in table) == sorted(wav2vec2.ADVICE)
    settings = {name for _, names in table for name in re.findall(r"\w+", names)}
    assert settings <= set(wav2vec2.SymptomConfig.model_fields)


def test_every_objective_has_a_page() -> None:
    assert {Path(page).stem for page in PAGES if page.startswith("objectives/")} == {"index", *OBJECTIVES}
    assert re.findall(r"\]\((\w+)\.md\)", PAGES["objectives/index.md"]) == list(OBJECTIVES)


def test_sizes_of_the_presets() -> None:
    sizes = {row[0].strip("`"): row[1] for row in rows(PAGES["guides/pretrain.md"], 3)}
    assert list(sizes) == list(ENCODERS)
    for name in ("tiny", "small"):
        count = sum(each.numel() for each in SpeechEncoder(ENCODERS[name]).parameters())
        assert sizes[name] == f"{count / 1e6:.1f} M"


def test_docstrings_for_the_reference() -> None:
    spec = importlib.util.spec_from_file_location("docstrings", DOCS / "docstrings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    result = doctest.testmod(module)
    assert (result.failed, result.attempted) == (0, 2)
