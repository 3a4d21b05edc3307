"""What surrounds the package: hooks, continuous integration, templates, citation."""

import json
import os
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


def hook(name: str, repository: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    """Run one hook of the project on every file of a repository, with the tools of this environment."""
    config = cache / "config.yaml"
    config.write_text(HOOKS.read_text(encoding="utf-8").replace(".venv/bin/", f"{BIN}/"), encoding="utf-8")
    words = [sys.executable, "-m", "pre_commit", "run", name, "--all-files", "--config", str(config)]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    clean |= {"PRE_COMMIT_HOME": str(cache)}
    return subprocess.run(words, cwd=repository, env=clean, capture_output=True, text=True, timeout=300, check=False)


NAMES = [each["id"] for repository in read(HOOKS)["repos"] for each in repository["hooks"]]


@pytest.mark.parametrize("name", NAMES)
def test_hooks_pass_on_the_tree(name: str, tmp_path: Path) -> None:
    done = hook(name, REPOSITORY, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Passed" in done.stdout  # and not skipped for want of a file


@pytest.mark.parametrize(
    ("name", "path", "content"),
    [
        ("ruff-check", "a.py", "import os\n"),
        ("ruff-format", "a.py", "x = {  1 }\n"),
        ("typos", "a.md", "It is a sep" + "erate file.\n"),
        ("large-files", "a.bin", "x" * 600_000),
        ("workflows", ".github/workflows/a.yml", "on: push\njobs: {a: {steps: []}}\n"),
        ("issue-forms", ".github/ISSUE_TEMPLATE/a.yml", "name: A\nbody: []\n"),
        ("issue-chooser", ".github/ISSUE_TEMPLATE/config.yml", "blank: 1\n"),
        ("citation", "CITATION.cff", "title: a\n"),
    ],
)
def test_hooks_find_faults(name: str, path: str, content: str, tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    (folder / path).parent.mkdir(parents=True)
    (folder / path).write_text(content)
    for words in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run(["git", *words], cwd=folder, check=True, timeout=60)
    done = hook(name, folder, tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Failed" in done.stdout


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
