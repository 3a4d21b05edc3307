"""Output files: whole or not at all, by one process at a time, and errors that name the file."""

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from speechssl.config import UserError
from speechssl.files import hold_file, hold_folder, naming, replacing, write_atomic
from tests.toys import files_of_at_most

HOLDS = "import sys, time\nfrom pathlib import Path\nfrom speechssl.files import hold_folder\n"
HOLDS += "with hold_folder(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"


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
