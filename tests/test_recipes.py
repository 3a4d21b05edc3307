"""The Makefile and its recipes: what is stale is redone and nothing else, and everything shipped runs at toy size."""

import os
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from speechssl.config import load_config
from speechssl.train.pretrain_config import config_of, runs
from tests.bundles import toy_bundle

REPOSITORY = Path(__file__).parent.parent
# A stand-in for the package: it notes what it was asked and writes the files that the real one would. It fails at the
# verb that the file `fail` names.
STAND_IN = """#!/usr/bin/env bash
shift 2
echo "$*" >> "$(dirname "$0")/asked"
[ "$1" != "$(cat "$(dirname "$0")/fail" 2>/dev/null)" ] || exit 3
verb=$1
while [ "$1" != --out ]; do shift; done
case $verb in
  prepare) mkdir -p "$2"; [ -e "$2/waveforms.json" ] || touch "$2/waveforms.json" ;;
  pretrain) touch "$2/model.safetensors" ;;
  emotion|asr|judge) touch "$2/results.json" ;;
  *) touch "$2" ;;
esac
"""


def make(*words: str, check: bool = True, bundled: Path = Path("none")) -> subprocess.CompletedProcess[str]:
    """Run make in the repository as a user would, in the environment of this test run; no model is bundled."""
    clean = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    clean |= {"SPEECHSSL_BUNDLED": str(bundled)}
    done = subprocess.run(
        ["make", "READY=", *words], cwd=REPOSITORY, env=clean, capture_output=True, text=True, timeout=600, check=False
    )
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture
def asked(tmp_path: Path) -> Callable[..., list[str]]:
    """`asked(*words)` makes with the stand-in and returns the verbs and the rest of what it was asked."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "python").write_text(STAND_IN)
    (bin_folder / "python").chmod(0o755)
    log = bin_folder / "asked"

    def run(*words: str, **options: Any) -> list[str]:
        log.write_text("")
        make(f"BIN={bin_folder}", *words, **options)
        return log.read_text().splitlines()

    return run


def verbs(lines: list[str]) -> list[str]:
    return [line.split()[0] for line in lines]


def test_second_make_redoes_nothing(tmp_path: Path, asked: Callable[..., list[str]]) -> None:
    words = ["demo", f"OUT={tmp_path}/demo"]
    first = asked(*words)
    few = ["emotion", "report", "asr", "report"]
    assert verbs(first) == ["prepare", "pretrain", "evaluate", "report", *few]
    demo = "--preset tiny --config recipes/demo/demo.toml"
    assert first[1] == f"pretrain {tmp_path}/demo/corpus {demo} --out {tmp_path}/demo/pretrain"
    assert first[3] == f"report {tmp_path}/demo/pretrain --out {tmp_path}/demo/report.html"
    given = f"{tmp_path}/demo/corpus --encoder {tmp_path}/demo/pretrain"
    five = "--contenders fine-tuned,frozen-probe,random-encoder,mfcc-svm,logmel-cnn"
    emotion = f"emotion {given} --shots 5,25 --draws 3 --test-limit 200 {five} --set loop.steps=40"
    assert first[4] == f"{emotion} --out {tmp_path}/demo/emotion"
    asr = f"asr {given} --minutes 10 --lm transcripts --order 3 --beam 20 --rounds 0 --keep 0.7 --no-scratch"
    assert first[6] == f"{asr} --rivals none --set loop.steps=700 --out {tmp_path}/demo/asr"
    assert asked(*words) == []


def test_the_demo_begins_with_the_bundled_model(tmp_path: Path, asked: Callable[..., list[str]]) -> None:
    (tmp_path / "bundle.json").touch()
    (tmp_path / "model.safetensors").touch()
    words = ["demo", f"OUT={tmp_path}/demo"]
    first = asked(*words, bundled=tmp_path)
    assert verbs(first)[:4] == ["prepare", "extract", "evaluate", "pretrain"]
    assert verbs(first)[3:] == ["pretrain", "evaluate", "report", "emotion", "report", "asr", "report"]
    made = f"{tmp_path}/demo/bundled"
    assert first[1] == f"extract {tmp_path}/demo/corpus/manifest.jsonl --out {made}/vectors.parquet"
    probes = f"evaluate bundled {tmp_path}/demo/corpus --task label --task speaker --shots 5,10,25 --seeds 5"
    assert first[2] == f"{probes} --out {made}/results.json"
    recogniser = next(line for line in first if line.startswith("asr "))
    assert f"--encoder {tmp_path} " in recogniser  # its own pretraining is too short for one
    assert asked(*words, bundled=tmp_path) == []
    later = (tmp_path / "demo" / "bundled" / "results.json").stat().st_mtime + 5
    os.utime(tmp_path / "bundle.json", (later, later))
    assert verbs(asked(*words, bundled=tmp_path)) == ["extract", "evaluate"]  # other weights


def test_a_stage_is_redone_when_its_words_change(tmp_path: Path, asked: Callable[..., list[str]]) -> None:
    words = ["pretrain", "probe", "CORPUS=folder", "ROOT=here", f"OUT={tmp_path}/run"]
    assert verbs(asked(*words)) == ["prepare", "pretrain", "evaluate", "report"]
    assert verbs(asked(*words, "SHOTS=1")) == ["evaluate", "report"]
    changed = asked(*words, "SHOTS=1", "SET=a.b=c d.e=f")
    assert verbs(changed) == ["pretrain", "evaluate", "report"]
    assert "--preset tiny --set a.b=c --set d.e=f --out" in changed[0]
    assert asked(*words, "SHOTS=1", "SET=a.b=c d.e=f") == []
    moved = asked(*words, "SHOTS=1", "SET=a.b=c d.e=f", "ROOT=there and here")
    assert verbs(moved) == ["prepare", "pretrain", "evaluate", "report"]
    assert "--root there and here" in moved[0]


def test_a_recipe_that_changed_is_run_again(tmp_path: Path, asked: Callable[..., list[str]]) -> None:
    recipe, base = tmp_path / "mine.toml", tmp_path / "base.toml"
    recipe.write_text('base = "base.toml"\n')
    base.write_text("")
    words = ["pretrain", "CORPUS=espeak", f"OUT={tmp_path}/run", f"RECIPE={recipe}"]
    assert verbs(asked(*words)) == ["prepare", "pretrain"]
    for path in (recipe, base):
        later = (tmp_path / "run" / ".pretrained").stat().st_mtime + 5
        os.utime(path, (later, later))
        assert verbs(asked(*words)) == ["pretrain"], path
        os.utime(path, (0, 0))


def test_a_stage_that_failed_is_tried_again(tmp_path: Path, asked: Callable[..., list[str]]) -> None:
    words = ["pretrain", "CORPUS=espeak", f"OUT={tmp_path}/run"]
    (tmp_path / "bin" / "fail").write_text("pretrain")
    assert verbs(asked(*words, check=False)) == ["prepare", "pretrain"]
    (tmp_path / "bin" / "fail").unlink()
    assert verbs(asked(*words)) == ["pretrain"]
    assert asked(*words) == []


def test_several_prepared_folders(tmp_path: Path, asked: Callable[..., list[str]]) -> None:
    for name in "abc":
        asked("prepare", "CORPUS=espeak", f"PREPARED={tmp_path}/{name}")
    words = [
        "pretrain",
        "probe",
        f"PREPARED={tmp_path}/a {tmp_path}/b",
        f"PROBE_ON={tmp_path}/c",
        f"OUT={tmp_path}/run",
    ]
    lines = asked(*words, "PRESET=base")
    assert verbs(lines) == ["pretrain", "evaluate", "report"]
    assert lines[0] == f"pretrain {tmp_path}/a {tmp_path}/b --preset base --out {tmp_path}/run"
    assert lines[1].startswith(f"evaluate {tmp_path}/run {tmp_path}/c --task label")


def test_emotion_prepares_runs_and_reports(tmp_path: Path, asked: Callable[..., list[str]]) -> None:
    encoder, out = tmp_path / "encoder", tmp_path / "run"
    encoder.mkdir()
    (encoder / "model.safetensors").touch()
    words = ["emotion", "CORPUS=fsdd", f"ENCODER={encoder}", f"OUT={out}"]
    said = f"emotion {out}/corpus --encoder {encoder} --shots 5,10,25,50,100,all --draws 5 --test-limit 1000"
    assert asked(*words) == [
        f"prepare fsdd --out {out}/corpus",
        f"{said} --out {out}",
        f"report {out} --out {out}/report.html",
    ]
    assert asked(*words) == []
    changed = asked(*words, "SHOTS=5 10 all", "DRAWS=10", "SET=loop.steps=5", "CONTENDERS=fine-tuned,mfcc-svm")
    assert verbs(changed) == ["emotion", "report"]
    assert "--shots 5,10,all --draws 10" in changed[0]
    assert "--contenders fine-tuned,mfcc-svm --set loop.steps=5 --out" in changed[0]
    listed = asked(*words, "FOLDS=data/lists/emobox-ravdess")
    assert listed[0] == f"emotion {out}/corpus --encoder {encoder} --fold-lists data/lists/emobox-ravdess --out {out}"


def test_emotion_is_stale_when_its_encoder_changed(tmp_path: Path, asked: Callable[..., list[str]]) -> None:
    (tmp_path / "model.safetensors").touch()
    words = ["emotion", "CORPUS=fsdd", f"ENCODER={tmp_path}", f"OUT={tmp_path}/run"]
    asked(*words)
    later = (tmp_path / "run" / "results.json").stat().st_mtime + 5
    os.utime(tmp_path / "model.safetensors", (later, later))
    assert verbs(asked(*words)) == ["emotion", "report"]


def test_emotion_takes_a_prepared_folder_and_names_its_run_after_the_corpus(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "waveforms.json").touch()
    prepared = make("-n", "emotion", f"PREPARED={tmp_path}/mine", f"ENCODER={tmp_path}").stdout
    assert f"emotion {tmp_path}/mine --encoder" in prepared
    assert "--out runs/emotion/mine" in prepared
    assert "speechssl prepare" not in prepared
    named = make("-n", "emotion", "CORPUS=fsdd", f"ENCODER={tmp_path}").stdout
    assert "prepare fsdd    --out runs/emotion/fsdd/corpus" in named
    assert "report runs/emotion/fsdd --out runs/emotion/fsdd/report.html" in named
    assert "speechssl pretrain" not in named
    folds = make("-n", "emotion", "CORPUS=ravdess", f"ENCODER={tmp_path}", "FOLDS=data/lists/emobox-ravdess").stdout
    assert "--fold-lists data/lists/emobox-ravdess  " in folds
    assert "report runs/emotion/ravdess-emobox --out runs/emotion/ravdess-emobox/report.html" in folds


def test_judge_takes_a_folder_of_recordings(tmp_path: Path, asked: Callable[..., list[str]]) -> None:
    out = tmp_path / "run"
    words = ["judge", f"ROOT={tmp_path}/mine", f"OUT={out}"]
    said = f"judge {out}/corpus --model bundled --shots 5,10,25 --seeds 5 --test-limit 1000 --out {out}"
    assert asked(*words) == [f"prepare folder --root {tmp_path}/mine --out {out}/corpus", said]
    assert asked(*words) == []
    (tmp_path / "model.safetensors").touch()
    [changed] = asked(*words, f"MODEL={tmp_path}", "SHOTS=2,4", "SEEDS=3", "TEST_LIMIT=9")
    assert f"--model {tmp_path} --shots 2,4 --seeds 3 --test-limit 9 --out" in changed


def test_judge_is_stale_when_its_model_changed(tmp_path: Path, asked: Callable[..., list[str]]) -> None:
    for name, file, words in (
        ("own", "model.safetensors", (f"MODEL={tmp_path}",)),
        ("bundled", "bundle.json", ()),
    ):
        (tmp_path / file).touch()
        words = ("judge", "CORPUS=fsdd", *words, f"OUT={tmp_path}/{name}")
        assert verbs(asked(*words, bundled=tmp_path)) == ["prepare", "judge"]
        later = (tmp_path / name / "results.json").stat().st_mtime + 5
        os.utime(tmp_path / file, (later, later))
        assert verbs(asked(*words, bundled=tmp_path)) == ["judge"]


def test_judge_names_its_run_after_the_recordings(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "waveforms.json").touch()
    assert "--out runs/judge/calls\n" in make("-n", "judge", "ROOT=~/sound/calls/").stdout
    assert "--out runs/judge/fsdd\n" in make("-n", "judge", "CORPUS=fsdd").stdout
    prepared = make("-n", "judge", f"PREPARED={tmp_path}/mine").stdout
    assert "--out runs/judge/mine\n" in prepared
    assert "speechssl prepare" not in prepared


LISTS = "--labels data/lists/cmu_arctic-slt-10min.txt --dev data/lists/cmu_arctic-slt-dev.txt"
PLAIN = "--order 3 --beam 100 --rounds 1 --keep 0.7"


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """A model folder, as far as make looks."""
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "model.safetensors").touch()
    return tmp_path / "encoder"


def test_asr_finds_the_lists_of_its_corpus(tmp_path: Path, encoder: Path, asked: Callable[..., list[str]]) -> None:
    out = tmp_path / "run"
    words = ["asr", "CORPUS=cmu_arctic", f"ENCODER={encoder}", f"OUT={out}"]
    lists = f"{LISTS} --test data/lists/cmu_arctic-bdl-test.txt"
    assert asked(*words) == [
        f"prepare cmu_arctic --out {out}/corpus",
        f"asr {out}/corpus --encoder {encoder} {lists} {PLAIN} --out {out}",
        f"report {out} --out {out}/report.html",
    ]
    assert asked(*words) == []
    changed = asked(
        *words, "LABELS=5min", "ORDER=4", "BEAM=7", "ROUNDS=2", "KEEP=0.5", "SCRATCH=no", "SET=loop.steps=5"
    )
    assert verbs(changed) == ["asr", "report"]
    assert f"--minutes 5 {lists[lists.index('--dev') :]} --order 4 --beam 7 --rounds 2 --keep 0.5" in changed[0]
    assert "--no-scratch --set loop.steps=5 --out" in changed[0]
    text = asked(*words, "TEXT=a b.txt", "DEV=data/lists/cmu_arctic-slt-10min.txt")
    assert "--lm-text a b.txt" in text[0]
    assert "--dev data/lists/cmu_arctic-slt-10min.txt" in text[0]
    assert "--lm " not in text[0]
    assert "--lm english --order 3" in asked(*words, "LM=english")[0]
    alone = asked(*words, "SAME_SPEAKER=yes")
    assert f"{LISTS} --test data/lists/cmu_arctic-slt-test.txt --same-speaker --order 3" in alone[0]
    assert "-test.txt" not in asked(*words, "SAME_SPEAKER=yes", "LABELS=5min")[0]  # no speaker of labels, no test
    said = make("-n", "asr", "CORPUS=cmu_arctic", "SAME_SPEAKER=yes", f"ENCODER={encoder}").stdout
    assert "--out runs/asr/cmu_arctic-10min-same-speaker" in said
    assert "--keep 0.7 --rivals hmm-mfcc,pocketsphinx --out" in asked(*words, "RIVALS=hmm-mfcc,pocketsphinx")[0]


@pytest.mark.parametrize(
    ("labels", "name", "words"),
    [
        ("1h", "1h", "--labels data/lists/speechocean762-1h.txt --dev data/lists/speechocean762-dev.txt --order"),
        ("1.5h", "1.5h", "--minutes 90 --dev data/lists/speechocean762-dev.txt --order"),
        ("30min", "30min", "--minutes 30 --dev data/lists/speechocean762-dev.txt --order"),
        ("data/lists/speechocean762-10min.txt", "10min", "--labels data/lists/speechocean762-10min.txt --dev"),
        ("data/lists/README.md", "README.md", "--labels data/lists/README.md --dev"),
    ],
)
def test_labels_are_an_amount_or_a_list(labels: str, name: str, words: str, encoder: Path) -> None:
    said = make("-n", "asr", "CORPUS=speechocean762", f"LABELS={labels}", f"ENCODER={encoder}").stdout
    line = next(line for line in said.splitlines() if "speechssl asr" in line)
    assert words in " ".join(line.split())
    assert line.endswith(f"--out runs/asr/speechocean762-{name}")
    assert f"speechssl prepare speechocean762    --out runs/asr/speechocean762-{name}/corpus" in said


def test_asr_is_stale_when_a_list_changed(tmp_path: Path, encoder: Path, asked: Callable[..., list[str]]) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("a\n")
    words = ["asr", "CORPUS=fsdd", f"ENCODER={encoder}", f"OUT={tmp_path}/run", f"LABELS={mine}"]
    assert verbs(asked(*words)) == ["prepare", "asr", "report"]
    later = (tmp_path / "run" / "results.json").stat().st_mtime + 5
    os.utime(mine, (later, later))
    assert verbs(asked(*words)) == ["asr", "report"]


def test_a_dry_run_of_the_demo_stops_before_there_is_an_encoder(tmp_path: Path) -> None:
    said = make("-n", "demo", f"OUT={tmp_path}/demo").stdout
    assert "speechssl pretrain" in said
    assert "speechssl emotion" not in said


def test_objectives_are_compared_at_every_call(tmp_path: Path, asked: Callable[..., list[str]]) -> None:
    words = ["compare-objectives", "PREPARED=a b", "PROBE_ON=c d:speaker", f"OUT={tmp_path}/runs"]
    said = "compare-objectives a b --seeds 3 --minutes 40 --probe-on c --probe-on d:speaker --preset tiny"
    line = f"{said} --out {tmp_path}/runs --results recipes/objectives/results"
    assert asked(*words) == [line]
    assert asked(*words) == [line]  # the command knows what is missing
    more = ["OBJECTIVES=hubert,apc", "SEEDS=2", "BUDGET_BY=audio", "AUDIO_HOURS=5", "VERIFY_ON=e", "SET=a.b=c"]
    [changed] = asked(*words, *more, "RATES=0.5,1", "SWEEP_ON=f", "SWEEP_MINUTES=3", f"RESULTS={tmp_path}/r")
    assert changed == (
        "compare-objectives a b --objectives hubert,apc --seeds 2 --budget-by audio --hours 5 --probe-on c "
        "--probe-on d:speaker --verify-on e --preset tiny --rates 0.5,1 --sweep-minutes 3 --sweep-on f --set a.b=c "
        f"--out {tmp_path}/runs --results {tmp_path}/r"
    )


def test_extract_names_its_file(tmp_path: Path, asked: Callable[..., list[str]]) -> None:
    (tmp_path / "model.safetensors").touch()
    lines = asked("extract", f"MODEL={tmp_path}", "ROOT=~/sound")
    assert lines == [f"extract {tmp_path} {Path.home()}/sound --out {tmp_path}/vectors.parquet"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("pretrain", "give CORPUS=name"),
        ("prepare", "give CORPUS=name"),
        ("probe", "give CORPUS=name"),
        ("pretrain CORPUS=folder", "CORPUS=folder needs ROOT="),
        ("pretrain CORPUS=espeak PRESET=huge", "PRESET is 'huge'; allowed: tiny, small, base, large"),
        ("pretrain CORPUS=espeak RECIPE=none.toml", "there is no RECIPE 'none.toml'"),
        ("pretrain CORPUS=espeak 'OUT=my run'", "OUT is 'my run'; make takes no spaces there"),
        ("emotion", "give CORPUS=name"),
        ("emotion CORPUS=fsdd", "emotion needs ENCODER=a model folder; there is none in ''"),
        ("emotion CORPUS=fsdd ENCODER=none", "emotion needs ENCODER=a model folder; there is none in 'none'"),
        ("emotion CORPUS=folder ENCODER=none", "CORPUS=folder needs ROOT="),
        ("emotion pretrain CORPUS=fsdd", "make emotion by itself"),
        ("emotion ENCODER=x 'PREPARED=a b'", "emotion takes one prepared corpus, PREPARED is 'a b'"),
        ("judge", "give CORPUS=name"),
        ("judge CORPUS=folder", "CORPUS=folder needs ROOT="),
        ("judge ROOT=here MODEL=none", "judge needs MODEL=a model folder, or bundled; there is no model in 'none'"),
        ("judge 'PREPARED=a b'", "judge takes one prepared corpus, PREPARED is 'a b'"),
        ("judge pretrain CORPUS=fsdd", "make judge by itself"),
        ("asr", "give CORPUS=name"),
        ("asr CORPUS=fsdd", "asr needs ENCODER=a model folder; there is none in ''"),
        ("asr CORPUS=fsdd ENCODER=HERE LABELS=many", "LABELS is 'many'; allowed: minutes or hours such as 10min or 1h"),
        ("asr CORPUS=fsdd ENCODER=HERE LABELS=a/b.txt", "there is no such list among LABELS, DEV and TEST: 'a/b.txt'"),
        ("asr CORPUS=fsdd ENCODER=HERE TEST=b.txt", "there is no such list among LABELS, DEV and TEST: 'b.txt'"),
        ("asr CORPUS=fsdd ENCODER=HERE SAME_SPEAKER=1", "SAME_SPEAKER is '1'; allowed: yes or no"),
        ("asr pretrain CORPUS=fsdd", "make asr by itself"),
        ("asr ENCODER=x 'PREPARED=a b'", "asr takes one prepared corpus, PREPARED is 'a b'"),
        ("compare-objectives", "give CORPUS=name, or PREPARED=folder"),
        ("compare-objectives CORPUS=fsdd PROBE_ON=a", "compare-objectives needs PREPARED=folders of prepared corpora"),
        ("compare-objectives PREPARED=a", "compare-objectives needs PROBE_ON=folders of prepared corpora to probe"),
        ("compare-objectives PREPARED=a PROBE_ON=b BUDGET_BY=x", "BUDGET_BY is 'x'; allowed: time, audio"),
        ("compare-objectives PREPARED=a PROBE_ON=b RATES=1,2", "RATES needs SWEEP_ON=a prepared corpus"),
        ("compare-objectives pretrain PREPARED=a PROBE_ON=b", "make compare-objectives by itself"),
        ("extract", "extract needs ROOT="),
        ("extract ROOT=here MODEL=none", "extract needs MODEL=a model folder; there is none in 'none'"),
    ],
)
def test_a_missing_value_is_one_line(words: str, said: str, encoder: Path) -> None:
    done = make(*shlex.split(words.replace("HERE", str(encoder))), check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["two words", 'Bob\'s "best" `takes` 日本', "(1) & more; *"])
def test_names_reach_the_command_as_they_are(name: str, tmp_path: Path, asked: Callable[..., list[str]]) -> None:
    words = ("prepare", "CORPUS=folder", f"ROOT={tmp_path}/{name}", f"OUT={tmp_path}/run")
    assert asked(*words) == [f"prepare folder --root {tmp_path}/{name} --out {tmp_path}/run/corpus"]
    assert asked(*words) == []
    (tmp_path / "model.safetensors").touch()
    extract = ("extract", f"MODEL={tmp_path}", f"ROOT={tmp_path}/{name}")
    assert asked(*extract) == [f"extract {tmp_path} {tmp_path}/{name} --out {tmp_path}/vectors.parquet"]


def test_an_old_python_is_one_line(tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = make("setup", f"READY={tmp_path}/venv/.ready", f"VENV={tmp_path}/venv", f"PYTHON={old}", check=False)
    assert done.returncode == 2
    assert (
        done.stderr.splitlines()[0]
        == "speechssl needs Python 3.11 or newer; name one that is: make PYTHON=python3.12 setup"
    )
    assert not (tmp_path / "venv").exists()


def test_setup_compiles_what_it_installs(tmp_path: Path) -> None:
    """Where Python may not write bytecode, every start would compile torch and scipy anew."""
    done = make("-n", "setup", f"READY={tmp_path}/.ready", f"VENV={tmp_path}")
    installs = [line for line in done.stdout.replace("\\\n", " ").splitlines() if "uv pip install" in line]
    assert len([line for line in installs if "--editable" in line]) == 2
    assert all("--compile-bytecode" in line for line in installs if "--editable" in line)


def test_help_lists_every_target() -> None:
    listed = [line.split()[1] for line in make("help").stdout.splitlines()]
    wanted = "help setup demo test lint types hooks docs prepare pretrain probe extract emotion asr judge bundle clean"
    wanted += " compare-objectives"
    assert sorted(listed) == sorted(wanted.split())


@pytest.mark.parametrize("path", sorted((REPOSITORY / "recipes").rglob("*.toml")), ids=lambda path: path.name)
def test_a_recipe_holds_differences_only(path: Path) -> None:
    preset = runs("wav2vec2")["tiny" if path.stem in ("demo", "quick", "hour") else path.stem]
    load_config(config_of("wav2vec2"), path, defaults=preset)

    def same(table: dict[str, object], default: object) -> list[str]:
        found: list[str] = []
        for key, value in table.items():
            there = getattr(default, key)
            found += same(value, there) if isinstance(value, dict) else [key] * (value == there)
        return found

    values = tomllib.loads(path.read_text(encoding="utf-8"))
    values.pop("base", None)
    assert same(values, preset) == []


@pytest.fixture(scope="module")
def toy_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a real `make demo` at toy size; `words` holds make's words and `said` what it said."""
    folder = tmp_path_factory.mktemp("demo")
    toy = "crops.batch_seconds=4 loop.validate_every=2 loop.checkpoint_every=2"
    words = [f"OUT={folder}", f"ROOT={folder}/voices", "HOURS=0.05", "CORPUS_SET=voices=6", "STEPS=4"]
    words += [f"SET={toy}", "SHOTS=1,2", "SEEDS=2"]
    words = [f"BIN={Path(sys.executable).parent}", *words, "demo"]
    done = make(*words, bundled=toy_bundle(folder / "toy"))
    (folder / "words").write_text(shlex.join(words))
    (folder / "said").write_text(done.stdout + done.stderr)
    return folder


@pytest.mark.slow
def test_the_demo(toy_demo: Path) -> None:
    names = [
        "corpus/manifest.jsonl",
        "bundled/vectors.parquet",
        "bundled/results.json",
        "pretrain/model.safetensors",
        "pretrain/results.json",
        "report.html",
    ]
    names += [f"{stage}/{file}" for stage in ("emotion", "asr") for file in ("results.json", "report.html")]
    for name in names:
        assert (toy_demo / name).stat().st_size > 0, name
    said = (toy_demo / "said").read_text()
    assert "UAR" in said
    assert "speechssl.load(" in said
    assert f"{toy_demo}/emotion/report.html and {toy_demo}/asr/report.html" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_the_demo_redoes_nothing(toy_demo: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in toy_demo.rglob("*") if path.is_file()}
    again = make(*shlex.split((toy_demo / "words").read_text()), bundled=toy_demo / "toy" / "bundled")
    assert again.stdout == ""
    assert {path: path.stat().st_mtime_ns for path in toy_demo.rglob("*") if path.is_file()} == before
