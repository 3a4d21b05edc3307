"""The command line: frozen names, options and defaults, exit codes, and one line for every mistake."""

import json
import os
import subprocess
import sys
import typing
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import typer.main

from speechssl import __version__, cli
from speechssl.config import UserError
from speechssl.data.corpora import CORPORA
from speechssl.models.encoder import PRESETS, SpeechEncoder
from speechssl.models.storage import save_model
from speechssl.train.health import HealthError
from speechssl.train.pretrain import PretrainResult

FROZEN = Path(__file__).with_name("command_line.json")
NO_AUDIO = "not a sound\n"
COMPLETION = {"install_completion": bool, "show_completion": bool}  # typer's own


def described() -> dict[str, dict[str, str]]:
    """Every verb with its arguments and options, what they take, and their defaults."""
    group = typer.main.get_command(cli.app)
    return {
        verb: {
            "/".join([*parameter.opts, *parameter.secondary_opts]): summarized(
                parameter, typing.get_type_hints(verb_of(verb)) | COMPLETION
            )
            for parameter in command.params
            if parameter.name != "help"
        }
        for verb, command in {"": group, **group.commands}.items()
    }


def verb_of(name: str) -> typing.Any:
    """The function of a verb; before every verb stand the common options."""
    verbs = {each.__name__.removesuffix("_").replace("_", "-"): each for each in cli.COMMANDS}
    return verbs[name] if name else cli.options


def summarized(parameter: typing.Any, hints: dict[str, typing.Any]) -> str:
    """`int = 0`, `Path, required`, `list[str] = [], several`."""
    hint = hints[parameter.name]
    takes = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
    for module in ("typing.", "speechssl.cli.experiments.", "pathlib.", "_local."):  # pathlib._local: Python 3.13
        takes = takes.replace(module, "")
    default = json.dumps(parameter.default, default=str)
    several = ", several" if parameter.multiple or parameter.nargs == -1 else ""
    return takes + (", required" if parameter.required else f" = {default}") + several


def test_command_line_is_frozen() -> None:
    """A change here breaks somebody's script. If it is meant, write what is printed into command_line.json."""
    now = described()
    if now != json.loads(FROZEN.read_text(encoding="utf-8")):
        print(json.dumps(now, indent=1))
    assert now == json.loads(FROZEN.read_text(encoding="utf-8"))


def test_every_verb_is_short() -> None:
    """A verb says what to call; what it does is in the package."""
    for verb in described():
        code = verb_of(verb).__code__
        assert len({line for _, _, line in code.co_lines() if line}) <= 30, verb


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """A folder with four good clips, two labels, one of them at 8 kHz, and two bad files."""
    random = np.random.default_rng(0)
    for place, (label, rate) in enumerate([("up", 16000), ("up", 8000), ("down", 16000), ("down", 16000)]):
        path = tmp_path / "recordings" / label / f"{place}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * random.standard_normal(rate), rate)
    (tmp_path / "recordings" / "up" / "bad.wav").write_text(NO_AUDIO)
    (tmp_path / "recordings" / "down" / "bad.wav").write_text(NO_AUDIO)
    return tmp_path / "recordings"


def prepare(recordings: Path) -> Path:
    out = recordings.parent / "prepared"
    assert cli.main(["prepare", "folder", "--root", str(recordings), "--out", str(out), "--workers", "1"]) == 0
    return out


def test_prepare_ends_with_the_counts(recordings: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = prepare(recordings)
    said = capfd.readouterr()
    assert said.out == ""
    assert f"{out}: 4 utterances accepted, 2 rejected, 0.00 h" in said.err
    assert said.err.count("below 16 kHz") == 1
    assert "1 files are below 16 kHz" in said.err
    assert f"  each one is in {out / 'rejects.jsonl'}" in said.err


def test_prepare_of_nothing_usable_fails(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "empty.wav").touch()
    assert cli.main(["prepare", "folder", "--root", f"{tmp_path}/in", "--out", f"{tmp_path}/out"]) == 2
    assert capfd.readouterr().err.splitlines()[-1] == f"speechssl: {tmp_path}/out: no utterance could be used"


def test_prepare_takes_settings_and_a_limit(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = ["prepare", "espeak", "--root", str(tmp_path / "root"), "--out", str(out), "--limit", "2"]
    assert cli.main([*words, "--set", "hours=0.005", "--set", "workers=1"]) == 0
    said = capfd.readouterr().err
    assert "2 utterances accepted, 0 rejected" in said
    assert "synthetic" in said


def test_prepare_in_shards(recordings: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = ["prepare", "folder", "--root", str(recordings), "--out", str(out), "--workers", "1"]
    assert cli.main([*words, "--shard", "2/2"]) == 0
    assert capfd.readouterr().err.splitlines()[-1] == f"{out}: not joined yet; parts that are left: 1/2 (--shard 1/2 …)"
    assert cli.main(["info", str(out)]) == 2
    assert cli.main(words) == 2
    capfd.readouterr()
    assert cli.main([*words, "--shard", "1/2"]) == 0
    joined = capfd.readouterr().err
    assert cli.main([*words[:5], str(tmp_path / "whole"), "--workers", "1"]) == 0
    whole = capfd.readouterr().err
    assert joined.replace(str(out), "OUT") == whole.replace(str(tmp_path / "whole"), "OUT")
    for name in ("manifest.jsonl", "rejects.jsonl"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert cli.main([*words, "--shards", "2"]) == 0
    assert cli.main(["info", str(out)]) == 0


MISTAKES = {
    "frob": "No such command 'frob'",
    "prepare": "Missing argument",
    "prepare espeak": "Missing option '--out'",
    "prepare timit --out OUT": "unknown corpus 'timit'; allowed: espeak, folder",
    "prepare espeak --out OUT --set hours=many": "--set hours=many: key 'hours': given 'many', allowed: number",
    "prepare espeak --out OUT --set hrs=1": "unknown key 'hrs'",
    "prepare espeak --out OUT --limit 0": "--limit",
    "prepare folder --root NOTES --out OUT --shard 3/2": "--shard 3/2: a part of all parts, for example 2/4",
    "prepare folder --root NOTES --out OUT --shard 1/2 --shards 2": "--shards and --shard: give one of them",
    "prepare folder --root NOTES --out s3://bucket/x": "s3://bucket/x: a corpus is prepared on a disk",
    "prepare espeak --out OUT --frob": "No such option",
    "prepare folder --root NONE --out OUT": "NONE",
    "prepare espeak --out NOTES/x --limit 1 --set hours=0.001 --set workers=1": "NOTES/x: Not a directory",
    "pretrain NONE --out OUT --preset huge": "'huge' is not one of 'tiny', 'small', 'base', 'large'",
    "pretrain NONE --out OUT --config NONE.toml": "NONE.toml: no such recipe file",
    "pretrain NONE --out OUT --set loop.stps=3": "unknown key 'loop.stps'; did you mean 'steps'?",
    "pretrain NONE --out OUT": "NONE",
    "extract NONE NONE --out OUT.parquet": "NONE: no such model",
    "extract NONE NONE --out OUT.parquet --pooling max": "'max' is not one of 'mean', 'mean+std'",
    "evaluate NONE NONE --out OUT.json": "NONE",
    "evaluate NONE NONE --out OUT.json --shots 5,many": "--shots 5,many: must be whole numbers separated by commas",
    "evaluate NONE NONE --out OUT.json --shots 0": "--shots 0: must be whole numbers separated by commas",
    "evaluate NONE NONE --out OUT.json --task age": "'age' is not one of 'label', 'speaker', 'text'",
    "report NONE --out OUT.html": "NONE",
    "finetune NONE --out OUT": "NONE",
    "finetune NONE --out OUT --learn words": "'words' is not one of 'label', 'text'",
    "finetune NONE --out OUT --shots 0": "--shots",
    "predict NONE a.wav": "NONE: not a model folder",
    "predict NONE a.wav --greedy --lm a.arpa": "--greedy and --lm exclude each other",
    "predict NONE a.wav --format xml": "'xml' is not one of 'table', 'jsonl', 'csv'",
    "emotion NONE --encoder NONE --out OUT": "NONE",
    "emotion NONE --encoder NONE --out OUT --shots some": "--shots some: must be whole numbers or all",
    "asr NONE --encoder NONE --out OUT": "NONE",
    "asr NONE --encoder NONE --out OUT --keep 2": "--keep",
    "asr NONE --encoder NONE --out OUT --order 9": "--order",
    "compare NONE.json NONE.json": "NONE.json",
    "info NONE": "NONE: no such file or folder; corpora: espeak, folder",
    "info .": ".: neither a model folder nor a prepared corpus",
    "info NOTES": "not",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPEECHSSL_DATA", raising=False)
    Path("NOTES").write_text(NO_AUDIO)
    assert cli.main(line.split()) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert MISTAKES[line] in said.err
    words = said.err.removeprefix("espeak is synthetic: no result on it is a result on speech.\n")
    assert words.startswith("speechssl: ")
    assert words.count("\n") == 1


def test_exit_codes_of_pretraining(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def ends(how: BaseException | PretrainResult) -> int:
        def pretrain(*_: object, **__: object) -> PretrainResult:
            if isinstance(how, BaseException):
                raise how
            return how

        monkeypatch.setattr("speechssl.train.pretrain.pretrain", pretrain)
        return cli.main(["pretrain", "corpus", "--out", "run"])

    done = PretrainResult(finished=True, steps=7, seconds_seen=3600.0, validation={})
    assert ends(done) == 0
    assert capfd.readouterr().err == "run: 7 steps, 1.0 h of audio seen\n"
    assert ends(PretrainResult(finished=False, steps=3, seconds_seen=1.0, validation={})) == 130
    assert "step 3; run the same command again" in capfd.readouterr().err
    assert ends(HealthError("not learning", step=5, evidence="loss 4.6", advice="more updates")) == 3
    said = capfd.readouterr().err
    assert "step 5: not learning (loss 4.6)" in said
    assert "more updates" in said
    assert ends(KeyboardInterrupt()) == 130
    assert ends(UserError("a\nmistake")) == 2
    assert "a mistake" in capfd.readouterr().err
    with pytest.raises(RuntimeError, match="a bug"):
        ends(RuntimeError("a bug"))


def test_pretrain_hands_on_recipe_and_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    got: dict[str, typing.Any] = {}

    def pretrain(corpora: object, out: object, **options: object) -> PretrainResult:
        got.update(options, corpora=corpora, out=out)
        return PretrainResult(finished=True, steps=0, seconds_seen=0.0, validation={})

    monkeypatch.setattr("speechssl.train.pretrain.pretrain", pretrain)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("seed = 4\n[loop]\nsteps = 9\n")
    words = [
        "pretrain",
        "a",
        "b",
        "--out",
        "run",
        "--preset",
        "small",
        "--config",
        str(recipe),
        "--set",
        "loop.steps=3",
    ]
    assert cli.main(words) == 0
    assert got["corpora"] == [Path("a"), Path("b")]
    assert got["out"] == Path("run")
    assert got["command"] == "speechssl " + " ".join(words)
    assert (got["config"].seed, got["config"].loop.steps) == (4, 3)
    assert got["config"].encoder == PRESETS["small"]


def facts(target: str | None, capfd: pytest.CaptureFixture[str]) -> dict[str, typing.Any]:
    words = ["info"] if target is None else ["info", target]
    capfd.readouterr()
    assert cli.main([*words, "--json"]) == 0
    as_json = capfd.readouterr().out
    assert as_json.count("\n") == 1
    assert cli.main(words) == 0
    plain = capfd.readouterr().out
    found = json.loads(as_json)
    assert len(plain.splitlines()) == len(found)
    return found


def test_info_of_the_installation(capfd: pytest.CaptureFixture[str]) -> None:
    found = facts(None, capfd)
    assert found["speechssl"] == __version__
    assert found["corpora"] == list(CORPORA)


@pytest.mark.parametrize("name", CORPORA)
def test_info_of_a_corpus(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    found = facts(name, capfd)
    assert found["name"] == name
    assert found["licence"]


def test_info_of_what_was_prepared(recordings: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = prepare(recordings)
    found = facts(str(out), capfd)
    assert (found["utterances"], found["rejected"], found["labels"]) == (4, 2, {"down": 2, "up": 2})
    assert facts(str(out / "manifest.jsonl"), capfd)["utterances"] == 4
    assert facts(str(recordings / "up" / "1.wav"), capfd)["rate"] == 8000


def test_info_of_a_model(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    encoder = SpeechEncoder(PRESETS["tiny"])
    save_model(tmp_path, encoder)
    found = facts(str(tmp_path), capfd)
    assert found["encoder_parameters"] == sum(weight.numel() for weight in encoder.state_dict().values())


@pytest.mark.parametrize("out", ["notes/page", "/proc/page"])
def test_a_place_that_cannot_be_written_is_one_line(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_model(Path("model"), SpeechEncoder(PRESETS["tiny"]))
    Path("notes").write_text(NO_AUDIO)
    soundfile.write("a.wav", 0.1 * np.random.default_rng(0).standard_normal(16000), 16000)
    for words in (["report", "model"], ["extract", "model", "."]):
        assert cli.main([*words, "--out", out]) == 2
        said = capfd.readouterr().err
        assert said.startswith(f"speechssl: {out.rpartition('/')[0]}")
        assert said.count("\n") == 1


def test_no_words_is_help(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    assert "Usage: speechssl" in capfd.readouterr().out


@pytest.mark.parametrize(
    "command", [[sys.executable, "-m", "speechssl"], [str(Path(sys.executable).with_name("speechssl"))]]
)
def test_the_installed_command(command: list[str]) -> None:
    asked = subprocess.run(
        [*command, "info", "espeak", "--json"], capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(asked.stdout)["synthetic"] is True
    wrong = subprocess.run([*command, "info", "nothing"], capture_output=True, text=True, timeout=60, check=False)
    assert (wrong.returncode, wrong.stdout, wrong.stderr.count("\n")) == (2, "", 1)


def test_the_version_goes_to_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    said = capfd.readouterr()
    assert (said.out, said.err) == (f"speechssl {__version__}\n", "")


COMPLETED = {  # what each shell passes when a tab follows `speechssl ext`, and what it needs to be told
    "bash": ({"COMP_WORDS": "speechssl ext", "COMP_CWORD": "1"}, "extract"),
    "zsh": ({"_TYPER_COMPLETE_ARGS": "speechssl ext"}, '_arguments \'*: :(("extract":"Turn recordings into vectors.'),
    "fish": (
        {"_TYPER_COMPLETE_ARGS": "speechssl ext", "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
        "extract\tTurn recordings into vectors.",
    ),
}


@pytest.mark.parametrize("shell", COMPLETED)
def test_a_shell_completes_verbs(
    shell: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    env, completed = COMPLETED[shell]
    for name, value in {**env, "_SPEECHSSL_COMPLETE": f"complete_{shell}"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        cli.main([])
    assert ended.value.code == 0
    assert capfd.readouterr().out.startswith(completed)


@pytest.mark.parametrize("shell", COMPLETED)
def test_completion_can_be_installed(
    shell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("shellingham.detect_shell", lambda *_: (shell, f"/bin/{shell}"))
    monkeypatch.setattr("subprocess.run", lambda *_, **__: None)  # of a bash or zsh that may not be there
    for words in (["--show-completion"], ["--install-completion"]):
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        assert ended.value.code == 0
    assert f"complete_{shell}" in capfd.readouterr().out
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert any(f"complete_{shell}" in text for text in written)


def test_completion_does_not_import_torch() -> None:
    program = "import sys\nfrom speechssl.cli import main\ntry:\n    main([])\nfinally:\n    print(*sys.modules)"
    env = {**os.environ, **COMPLETED["bash"][0], "_SPEECHSSL_COMPLETE": "complete_bash"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True, timeout=60
    )
    completed, modules = done.stdout.splitlines()
    assert completed == "extract"
    assert not {"torch", "numpy"} & set(modules.split())


def told_of(error: BaseException, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> str:
    """What is said when a command ends with an error."""

    def info(*_: object) -> None:
        raise error

    monkeypatch.setattr("speechssl.report.html.write_report", info)
    assert cli.main(["report", "run", "--out", "page.html"]) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err


def test_errors_of_the_system_name_a_file(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def told(*files: object) -> str:
        return told_of(OSError(28, "No space left on device", *files), monkeypatch, capfd)

    assert told("a.pt") == "speechssl: a.pt: No space left on device\n"
    assert told(b"\xff", None, "b") == "speechssl: \\udcff to b: No space left on device\n"
    assert told() == "speechssl: page.html: No space left on device\n"  # that of the output


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        np._core._exceptions._ArrayMemoryError((1 << 40,), np.dtype("float32")),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory\nx"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    ],
)
def test_no_memory_is_one_line(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert told_of(error, monkeypatch, capfd).startswith("speechssl: out of memory (")


def test_a_full_standard_output_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        words = [sys.executable, "-m", "speechssl", "--version"]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stderr == "speechssl: standard output: No space left on device\n"


def test_control_characters_do_not_reach_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", "a\x1b[2J\u202eb\udcff"]) == 2
    assert "a\\x1b[2J\\u202eb\\udcff" in capfd.readouterr().err


@pytest.mark.parametrize(
    "corpus",
    ["folder", "huggingface", "webdataset", "kaldi", "lhotse", "nemo_manifest", "fairseq", "commonvoice"],
)
def test_a_root_that_is_not_there_has_a_neighbour(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], corpus: str
) -> None:
    (tmp_path / "recordings").mkdir()
    root = tmp_path / "recording"
    assert cli.main(["prepare", corpus, "--root", str(root), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said == f"speechssl: {root}: no such file or folder; the nearest that exists: {tmp_path / 'recordings'}\n"
