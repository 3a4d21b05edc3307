"""Output files: whole or not at all, by one process at a time, and errors that name the file."""

import ast
import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import speechssl
from speechssl.config import UserError
from speechssl.files import (
    hold_file,
    hold_folder,
    move,
    naming,
    replacing,
    replacing_path,
    write_atomic,
    write_together,
)
from tests.toys import files_of_at_most

HOLDS = "import sys, time\nfrom pathlib import Path\nfrom speechssl.files import hold_folder\n"
HOLDS += "with hold_folder(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"


PACKAGE = Path(speechssl.__file__).parent


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_atomic(path, "old é")
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old é"
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a"]


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_atomic(path, b"old")
    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write(bytes(1 // len(b"")))
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def fill(path: Path, content: str, *, folder: bool) -> None:
    """A file, or a folder with one file."""
    if folder:
        path.mkdir(parents=True)
    (path / "file" if folder else path).write_text(content)


def content(path: Path) -> str:
    return (path / "file" if path.is_dir() else path).read_text()


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("flush", [False, True])
def test_a_named_file_or_folder_is_replaced_whole(tmp_path: Path, folder: bool, flush: bool) -> None:
    path = tmp_path / "a"
    for number in (1, 2):
        fill(tmp_path / ".a.partial", "of a killed process", folder=folder)
        with replacing_path(path, flush=flush) as partial:
            assert not partial.exists()
            fill(partial, f"new {number}", folder=folder)
            assert not path.exists() if number == 1 else content(path) == "new 1"
        assert content(path) == f"new {number}"
        assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("step", ["block", "fsync", "replace"])
@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt])
def test_a_failure_keeps_the_old_file_or_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: bool, step: str, kind: type[BaseException]
) -> None:
    replace, path = os.replace, tmp_path / "a"

    def fail(*_: object) -> None:
        raise kind(errno.ENOSPC, "full")

    def fail_at_last(source: Path, target: Path) -> None:
        fail() if ".partial" in str(source) else replace(source, target)

    def write(partial: Path) -> None:
        fill(partial, "new", folder=folder)
        if step == "block":
            fail()

    fill(path, "old", folder=folder)
    with monkeypatch.context() as patch:
        if step != "block":
            patch.setattr(os, step, fail if step == "fsync" else fail_at_last)
        with pytest.raises(kind) as caught, replacing_path(path) as partial:
            write(partial)
    if isinstance(caught.value, OSError):
        assert caught.value.filename == str(path)
    assert content(path) == "old"
    assert names(tmp_path) == ["a"]


def test_what_cannot_be_cleaned_up_does_not_hide_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(path: Path) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", ".chunk.partial")

    def write(partial: Path) -> None:
        partial.mkdir()
        monkeypatch.setattr("shutil.rmtree", gone)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left") as caught, replacing_path(tmp_path / "a.zarr") as partial:
        write(partial)
    assert caught.value.filename == str(tmp_path / "a.zarr")


def test_a_temporary_name_may_be_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    with replacing_path(tmp_path / "a", partial=tmp_path / "scratch" / "b") as partial:
        assert partial == tmp_path / "scratch" / "b"
        partial.write_text("new")
    assert content(tmp_path / "a") == "new"
    assert names(tmp_path / "scratch") == []


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("failing", ["a", "b", "c"])
def test_files_that_belong_together_change_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, again: bool
) -> None:
    old, new = ({tmp_path / name: f"{word} {name}".encode() for name in "abc"} for word in ("old", "new"))
    if again:
        write_together(old)
    replace = os.replace

    def fails(source: str, target: str) -> None:
        if Path(target).name == failing and Path(source).read_bytes().startswith(b"new"):
            raise OSError(errno.ENOSPC, "full")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="full") as caught:
        write_together(new)
    assert caught.value.filename == str(tmp_path / failing)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == (old if again else {})
    monkeypatch.undo()
    write_together(new)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == new


def test_a_file_does_not_replace_a_folder(tmp_path: Path) -> None:
    fill(tmp_path / "a", "old", folder=True)
    fill(tmp_path / "b", "new", folder=False)
    with pytest.raises(IsADirectoryError) as caught:
        move(tmp_path / "b", tmp_path / "a")
    assert caught.value.filename == str(tmp_path / "a")
    assert (content(tmp_path / "a"), content(tmp_path / "b")) == ("old", "new")


def renames(source: str) -> list[int]:
    """Lines that rename a file: calls of `rename`, `renames` and `shutil.move`, and of `replace` with a path.

    `str.replace` has two arguments and `dataclasses.replace` has keywords.
    """
    found: list[int] = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        name, owner = node.func.attr, ast.unparse(node.func.value)
        one = len(node.args) == 1 and not node.keywords
        if name in ("rename", "renames") or (name == "replace" and (one or owner == "os")):
            found.append(node.lineno)
        if (owner, name) == ("shutil", "move"):
            found.append(node.lineno)
    return found


def test_only_one_file_of_the_package_renames() -> None:
    found = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if renames(path.read_text())}
    assert found == {"files.py"}, "use replacing, replacing_path, write_atomic, write_together or move of files.py"


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("a.replace(b)", [1]),
        ("os.replace(a, b)\na.rename(b)", [1, 2]),
        ("shutil.move(a, b)", [1]),
        ("text.replace('a', 'b')\nreplace(a, b=1)\ndataclasses.replace(a, b=1)\ntable.rename_columns(a)", []),
    ],
)
def test_the_rule_itself(source: str, lines: list[int]) -> None:
    assert renames(source) == lines


def test_what_a_killed_process_left_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".a.partial").write_bytes(b"much longer than what comes")
    write_atomic(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("size", [5000, 5_000_000])  # one fails when it is flushed, one when it is written
def test_a_full_disk_names_the_file_and_keeps_the_old_one(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a"
    write_atomic(path, b"old")
    with files_of_at_most(4096), pytest.raises(OSError, match="File too large") as caught:
        write_atomic(path, bytes(size))
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_error_at_the_end_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_atomic(tmp_path / "a", b"old")
    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomic(tmp_path / "a", b"new")
    assert caught.value.filename == str(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_places_that_take_no_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write_atomic(tmp_path / "folder", b"")
    assert caught.value.filename == str(tmp_path / "folder")
    for path in (tmp_path / "none" / "a", Path("/proc/speechssl")):
        with pytest.raises(FileNotFoundError) as caught:
            write_atomic(path, b"")
        assert caught.value.filename == str(path)


def test_a_device_is_written_and_stays_one() -> None:
    write_atomic(Path("/dev/null"), b"nothing")
    assert Path("/dev/null").is_char_device()
    with replacing_path(Path("/dev/null")) as path:
        path.write_bytes(b"nothing")
    assert Path("/dev/null").is_char_device()
    with pytest.raises(OSError, match=r"No space left on device: '/dev/full'"):
        write_atomic(Path("/dev/full"), b"something")
    assert Path("/dev/full").is_char_device()


def test_errors_with_a_name_keep_it_and_others_get_one() -> None:
    with pytest.raises(FileNotFoundError) as caught, naming("a"):
        Path("b").read_bytes()
    assert caught.value.filename == "b"
    with pytest.raises(OSError, match="full") as caught, naming("a"):
        raise OSError(errno.ENOSPC, "full")
    assert caught.value.filename == "a"
    with pytest.raises(OSError, match="words alone") as caught, naming("a"):
        raise OSError("words alone")
    assert caught.value.filename is None


def test_writers_of_one_file_take_turns(tmp_path: Path) -> None:
    def write(letter: bytes) -> None:
        for _ in range(20):
            write_atomic(tmp_path / "a", letter * 100_000)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b")]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if (tmp_path / "a").exists():
            content = (tmp_path / "a").read_bytes()
            assert content in (b"a" * 100_000, b"b" * 100_000)
    for thread in threads:
        thread.join()
    assert names(tmp_path) == ["a"]


def test_an_output_is_held_once_and_free_afterwards(tmp_path: Path) -> None:
    for hold, path in ((hold_folder, tmp_path / "run"), (hold_file, tmp_path / "page.html")):
        with hold(path):
            with pytest.raises(UserError, match=f"{path}: another process is writing there"), hold(path):
                pass
            with pytest.raises(UserError, match="another process"), hold(path):
                pass
        with hold(path):
            pass
        assert names(tmp_path) == []  # neither a lock nor an empty folder stays


def test_a_folder_with_something_in_it_stays(tmp_path: Path) -> None:
    with hold_folder(tmp_path / "run"):
        (tmp_path / "run" / "file").touch()
    (tmp_path / "empty").mkdir()
    with hold_folder(tmp_path / "empty"):
        pass
    assert names(tmp_path) == ["empty", "run"]
    assert names(tmp_path / "run") == ["file"]


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDS, tmp_path / "run"], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="another process"), hold_folder(tmp_path / "run"):
            pass
        child.kill()
    assert child.returncode == -signal.SIGKILL
    with hold_folder(tmp_path / "run"):
        pass


def test_a_file_system_without_locks_can_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", none)
    with hold_folder(tmp_path / "run"):
        write_atomic(tmp_path / "run" / "a", b"new")
    assert names(tmp_path / "run") == ["a"]
