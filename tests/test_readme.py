"""What the README says works: its Python runs, its commands run at toy size, its links lead somewhere."""

import io
import itertools
import os
import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest

from speechssl import cli
from speechssl.config import load_config
from speechssl.train.pretrain_config import config_of, runs
from tests.shown import at_toy_size, blocks, commands, public_model

REPOSITORY = Path(__file__).parent.parent
TEXT = (REPOSITORY / "README.md").read_text(encoding="utf-8")
SAID = [r"\(192,\) \(99, 192\) 5\n", r"\{'embedder__layer': .+\}\n"]  # by the Python of the README, in order
COMMANDS = commands(TEXT)
BY_HAND = [shlex.split(line)[1:] for line in COMMANDS if line.startswith("speechssl ")]
ON_RECORDINGS = "make pretrain probe CORPUS=folder ROOT=~/recordings PRESET=small OUT=runs/mine"
PREPARE = "prepare folder --root ~/recordings --out runs/mine/corpus"
PUBLIC = "hf:facebook/wav2vec2-base"  # a test asks no hub
ON_EMODB = "make emotion CORPUS=emodb ENCODER=runs/mine"
ON_OCEAN = "make asr CORPUS=speechocean762 LABELS=10min ENCODER=runs/mine"
ON_FESTVOX = 'make pretrain CORPUS=festvox_ru PRESET=small SET="loop.steps=2000 seed=1"'


FROM_A_LIST = next(line for line in COMMANDS if line.startswith("find "))


def dry(command: str) -> list[list[str]]:
    """The words of each `speechssl` that `make …` would run, defaults of the command line left out."""
    words = ["make", "-n", "READY=", *shlex.split(command)[1:]]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=60)
    found = [line.split(" -m speechssl ")[1] for line in done.stdout.splitlines() if " -m speechssl " in line]
    return [shlex.split(line.replace("--shots 5,10,25 --seeds 5", "")) for line in found]


def test_every_command_is_known() -> None:
    """A command that is new in the README is run here by hand, or gets a test of its own."""
    rest = [line for line in COMMANDS if not line.startswith("speechssl ")]
    made = ["make demo", "make test", ON_RECORDINGS, ON_FESTVOX, ON_EMODB, ON_OCEAN]  # demo: test_recipes.py
    assert rest == [FROM_A_LIST, *made]
    known = {"prepare", "pretrain", "extract", "evaluate", "report", "info", "import", "export"}
    assert {words[0] for words in BY_HAND} == known | {"finetune", "predict", "emotion", "asr", "compare"}


def test_make_test_runs_the_suite() -> None:
    # The suite itself may have been started by make, with words that would pass through.
    words = ["make", "--no-print-directory", "-n", "READY=", "ARGS=", "test"]
    clean = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    done = subprocess.run(words, cwd=REPOSITORY, env=clean, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip().startswith(".venv/bin/python -m pytest ")


def test_make_does_what_is_shown_by_hand() -> None:
    assert [sorted(words) for words in dry(ON_RECORDINGS)] == [
        sorted(str(Path(word).expanduser()) if word.startswith("~") else word for word in words)
        for words in BY_HAND[BY_HAND.index(shlex.split(PREPARE)) :][:4]
    ]


def test_settings_of_the_public_corpus_exist() -> None:
    prepare, pretrain = dry(ON_FESTVOX)
    assert prepare[:2] == ["prepare", "festvox_ru"]
    sets = [value for name, value in itertools.pairwise(pretrain) if name == "--set"]
    config = load_config(config_of("wav2vec2"), overrides=sets, defaults=runs("wav2vec2")["small"])
    assert (config.loop.steps, config.seed) == (2000, 1)


def test_few_labels_by_make(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    emotion, asr = (dry(line.replace("runs/mine", str(tmp_path))) for line in (ON_EMODB, ON_OCEAN))
    assert [words[0] for words in emotion] == ["prepare", "emotion", "report"]
    assert [words[0] for words in asr] == ["prepare", "asr", "report"]
    assert "data/lists/speechocean762-10min.txt" in asr[1]


@pytest.mark.slow
def test_commands_by_hand(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    here = {PUBLIC: str(public_model(home / "hub"))}
    for shown in BY_HAND:
        words = [here.get(word, word) for word in shown]
        assert cli.main(at_toy_size(words)) == 0, capfd.readouterr().err
    for name in ("model.safetensors", "results.json", "report.html"):
        assert Path("runs/mine", name).stat().st_size > 0
    for name in ("vectors.parquet", "demo.parquet", "frames.h5", "runs/public/model.safetensors", "public.pt"):
        assert Path(name).stat().st_size > 0
    for name in ("tones.csv", "runs/emotion/mine/results.json", "runs/asr/mine/results.json"):
        assert Path(name).stat().st_size > 0
    said = capfd.readouterr()
    told = said.out
    assert said.err.count("no model named: the bundled model toy-1 is used") == 3
    assert "fine-tuned" in told  # what compare says
    recordings = len(list((home / "recordings").glob("*.flac")))
    assert len(Path("tones.csv").read_text().splitlines()) == recordings + 1
    assert sum('"words"' in line for line in told.splitlines()) == recordings


def test_a_list_on_standard_input(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find, own = FROM_A_LIST.replace("~", str(home)).split(" | ")
    found = subprocess.run(shlex.split(find), capture_output=True, text=True, check=True, timeout=60).stdout
    monkeypatch.setattr("sys.stdin", io.StringIO(found))
    assert cli.main(shlex.split(own)[1:]) == 0
    with np.load("vectors.npz") as vectors:
        assert vectors["vectors"].shape == (len(list((home / "recordings").glob("*.flac"))), 384)


@pytest.mark.parametrize(("source", "said"), list(zip(blocks(TEXT, "python"), SAID, strict=True)))
def test_python(source: str, said: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(source, "README.md", "exec"), {})
    assert re.fullmatch(said, capsys.readouterr().out)


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "SECURITY.md",
        "docs/data.md",
        "data/README.md",
        *(f"recipes/{name}/README.md" for name in ("demo", "pretrain", "emotion", "asr")),
    ],
)
def test_links_and_files_exist(page: str) -> None:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    named = re.findall(r"`((?:speechssl|tests|data|recipes)/[\w./]+)`", text)
    places = [(REPOSITORY / page).parent / link for link in links] + [REPOSITORY / name for name in named]
    missing = [str(place) for place in places if not place.exists() and "data/corpora" not in str(place)]
    assert missing == []
