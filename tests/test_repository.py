"""What surrounds the package: hooks, continuous integration, templates, citation."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import speechssl

REPOSITORY = Path(__file__).parent.parent
HOOKS = REPOSITORY / ".pre-commit-config.yaml"
BIN = Path(sys.executable).parent
FORMS = sorted(path for path in (REPOSITORY / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config")


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


NAMES = [each["name"] for repository in read(HOOKS)["repos"] for each in repository["hooks"]]


def run_hooks(repository: Path, cache: Path) -> dict[str, str]:
    """What each hook of the project says of every file of a repository, with the tools of this environment."""
    config = cache / "config.yaml"
    config.write_text(HOOKS.read_text(encoding="utf-8").replace(".venv/bin/", f"{BIN}/"), encoding="utf-8")
    words = [sys.executable, "-m", "pre_commit", "run", "--all-files", "--color", "never", "--config", str(config)]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    clean |= {"PRE_COMMIT_HOME": str(cache)}
    done = subprocess.run(words, cwd=repository, env=clean, capture_output=True, text=True, timeout=300, check=False)
    said = re.split(r"^([\w .]+?)\.{3,}(?=\(|Passed|Failed)", done.stdout, flags=re.MULTILINE)[1:]
    return dict(zip(said[::2], said[1::2], strict=True))


@pytest.mark.slow
def test_hooks_pass_on_the_tree(tmp_path: Path) -> None:
    said = run_hooks(REPOSITORY, tmp_path)
    assert list(said) == NAMES
    assert {name: words for name, words in said.items() if words.strip() != "Passed"} == {}  # none is skipped


def test_hooks_find_faults(tmp_path: Path) -> None:
    faults = {
        "a.py": "import os\nx = {  1 }\n",
        "a.md": "It is a sep" + "erate file.\n",
        "a.bin": "x" * 600_000,
        ".github/workflows/a.yml": "on: push\njobs: {a: {steps: []}}\n",
        ".github/ISSUE_TEMPLATE/a.yml": "name: A\nbody: []\n",
        ".github/ISSUE_TEMPLATE/config.yml": "blank: 1\n",
        "CITATION.cff": "title: a\n",
    }
    for name, content in faults.items():
        path = tmp_path / "repository" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    for words in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run(["git", *words], cwd=tmp_path / "repository", check=True, capture_output=True, timeout=60)
    said = run_hooks(tmp_path / "repository", tmp_path)
    assert {name for name in NAMES if not said[name].startswith("Failed")} == set()


def test_hooks_are_local() -> None:
    assert {each["repo"] for each in read(HOOKS)["repos"]} == {"local"}
    hooks = [each for repository in read(HOOKS)["repos"] for each in repository["hooks"]]
    assert all(each["entry"].startswith(".venv/bin/") and each["language"] == "system" for each in hooks)


def test_continuous_integration_runs_the_script() -> None:
    [job] = read(REPOSITORY / ".github" / "workflows" / "ci.yml")["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert os.access(REPOSITORY / ".ci" / "run", os.X_OK)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    versions = job["strategy"]["matrix"]["python"]
    assert versions == ["3.11", "3.13"]
    assert project["requires-python"] == f">={versions[0]}"


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms(path: Path) -> None:
    text = json.dumps(read(path))
    if path.stem != "addition":
        assert "`speechssl --version` and `speechssl info`" in text


def test_the_citation_is_of_this_version() -> None:
    assert read(REPOSITORY / "CITATION.cff")["version"] == speechssl.__version__
