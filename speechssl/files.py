"""Output files: written whole or not at all, by one process at a time, with the file's name in every error.

This is the only place of the package that renames a file to its final name. `write_atomic` (content), `replacing` (an
open file), `replacing_path` (a name, for a file or a folder) and `write_together` (several files) write under a
temporary name, flush to disk and rename: after a kill, a full disk or a power cut there is the old file or the new one.
`move` is the last step alone, for files that grow under a temporary name over several runs.

`hold_folder` and `hold_file` lock an output against a second process; in `one_at_a_time` a second one waits. The locks
are the kernel's (flock), so that a killed process keeps no lock.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_DEVICES = Path("/dev")
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file, whole or not at all.

    Args:
        path: the file; its folder must exist.
        content: text is encoded as UTF-8.

    Raises:
        OSError: the file cannot be written; carries the name of the file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomic(Path(folder) / "a.txt", "text")
    ...     [each.name for each in Path(folder).iterdir()]
    ['a.txt']
    """
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path) -> Generator[BinaryIO]:
    """Open a temporary file that replaces ``path`` when the block ends, and is removed when the block fails.

    Two processes that replace the same file wait for each other. Anything but a regular file (a terminal, a pipe, a
    device) is written directly.

    Raises:
        OSError: the file cannot be written; carries the name of the file.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if _is_device(path):
        with naming(path), path.open("wb") as device:
            yield device
        return
    partial = _partial(path)
    with naming(path, instead_of=partial), _locked_file(partial) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


@contextmanager
def replacing_path(path: Path, *, partial: Path | None = None, flush: bool = True) -> Generator[Path]:
    """Give a temporary name for a file or folder that replaces ``path`` when the block ends; removed when it fails.

    For writers that need a name. Unlike in `replacing`, two processes do not wait for each other. For a terminal, a
    pipe or a device the name is ``path`` itself.

    Args:
        path: the final name.
        partial: the temporary name, on the same disk [default: beside ``path``]. What exists there is removed first.
        flush: flush to disk before the rename.

    Raises:
        OSError: the file cannot be written; carries its name.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing_path(Path(folder) / "a.txt") as partial:
    ...         _ = partial.write_text("text")
    ...     [each.name for each in Path(folder).iterdir()]
    ['a.txt']
    """
    partial = partial or _partial(path)
    if _is_device(path):
        with naming(path):
            yield path
        return
    with naming(path, instead_of=partial):
        remove(partial)
        try:
            yield partial
            move(partial, path, flush=flush)
        except BaseException:
            with suppress(OSError):  # a thread of the block may still write there: its error is the one to tell
                remove(partial)
            raise


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write several files that belong together.

    All are on disk before the first is renamed. After a failed rename, every file has its old content.

    Args:
        contents: content by file, in the order of the renames.

    Raises:
        OSError: a file cannot be written; carries its name.
    """
    with ExitStack() as stack:
        partials = {path: stack.enter_context(_written_beside(path, content)) for path, content in contents.items()}
        first = list(partials)[:-1]  # the last is never restored
        before = {path: path.read_bytes() if path.exists() else None for path in first}
        try:
            for path, partial in partials.items():
                move(partial, path)
        except BaseException:  # Ctrl-C too
            for path, content in before.items():
                if not partials[path].exists():
                    path.unlink() if content is None else write_atomic(path, content)
            raise


def move(source: Path, target: Path, *, flush: bool = False) -> None:
    """Rename a finished file or folder on the same disk. A file replaces a file, a folder replaces a whole folder.

    Args:
        source: the file or folder.
        target: its new name.
        flush: flush it to disk before.

    Raises:
        OSError: the rename failed, and the old target is still there; carries the name of ``target``.
    """
    with naming(target, instead_of=source):
        if flush:
            _flush(source)
        if not (source.is_dir() and target.is_dir()):
            source.replace(target)
            return
        old = source.with_name(f".{target.name}.old")
        remove(old)
        target.replace(old)
        try:
            source.replace(target)
        except BaseException:
            old.replace(target)
            raise
        remove(old)


def remove(path: Path) -> None:
    """Remove a file or a folder with its content, where there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def flush_folder(folder: Path) -> None:
    """Flush the names in a folder, those of renamed files included, to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush(path: Path) -> None:
    """Flush a file, or all files of a folder, to disk."""
    for each in [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]:
        with each.open("rb") as file:
            os.fsync(file.fileno())


def _is_device(path: Path) -> bool:
    """Whether a path is anything but a regular file or a folder."""
    return path.exists() and (not (path.is_file() or path.is_dir()) or _DEVICES in path.absolute().parents)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")  # a fixed name: overwrites that of a killed process


@contextmanager
def _written_beside(path: Path, content: bytes) -> Generator[Path]:
    """A flushed file under a temporary name beside ``path``; removed at the end unless it was renamed."""
    partial = _partial(path)
    try:
        with naming(path, instead_of=partial), partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield partial
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def naming(path: Path | str, *, instead_of: Path | None = None) -> Generator[None]:
    """Add the name of a file to errors of the operating system without one.

    Args:
        path: the file that the block writes or reads.
        instead_of: a temporary file; errors that carry its name get ``path`` too.

    >>> with naming("a.txt"):
    ...     raise OSError(28, "No space left on device")
    Traceback (most recent call last):
    OSError: [Errno 28] No space left on device: 'a.txt'
    """
    try:
        yield
    except OSError as error:
        own = error.filename is None or (instead_of is not None and str(error.filename) == str(instead_of))
        if own and error.errno is not None:
            error.filename = str(path)
            if error.filename2 is not None:  # of a rename
                del error.filename2
        raise


def hold_folder(folder: Path) -> AbstractContextManager[None]:
    """Create an output folder and lock it against other processes until the block ends.

    A folder that was created here and is still empty is removed.

    Raises:
        UserError: another process holds the folder.
        OSError: the folder cannot be made or written; carries its name.
    """
    return _held(folder / ".lock", owner=folder)


def hold_file(path: Path) -> AbstractContextManager[None]:
    """Lock an output, a file or a folder that is replaced as a whole, against other processes until the block ends.

    The lock file is beside the output, whose folder is created when missing. Devices and pipes have no lock.

    Raises:
        UserError: another process holds the output.
        OSError: the folder of the output cannot be made or written; carries its name.
    """
    return _held(path.with_name(f".{path.name}.lock"), owner=path)


@contextmanager
def one_at_a_time(lock: Path) -> Generator[None]:
    """Wait until no other process is in a block with this lock file, which is removed at the end.

    Raises:
        OSError: the file cannot be made; carries its name.
    """
    handle = _lock(lock, owner=None)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)  # before the lock is released: a waiting process creates a new file
        os.close(handle)


@contextmanager
def _held(lock: Path, *, owner: Path) -> Generator[None]:
    if _DEVICES in owner.absolute().parents:
        yield
        return
    made = not lock.parent.exists()
    lock.parent.mkdir(parents=True, exist_ok=True)
    with naming(owner, instead_of=lock):
        handle = _lock(lock, owner=owner)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)  # before the lock is released: a waiting process creates a new file
        os.close(handle)
        if made:
            with suppress(OSError):
                lock.parent.rmdir()


def _lock(path: Path, *, owner: Path | None) -> int:
    """A locked descriptor of a file that is there; with an owner, a lock that is taken is an error."""
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            if path.parent.is_dir():
                raise
            path.parent.mkdir(parents=True, exist_ok=True)  # another run has just removed its empty folder
            continue
        try:
            _flock(handle, wait=owner is None)
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        except BlockingIOError:
            from speechssl.config import UserError  # it imports pydantic, which the start of the command line avoids

            os.close(handle)
            raise UserError(
                f"{owner}: another process is writing there; wait until it has ended, or choose another name"
            ) from None
        except FileNotFoundError:  # removed, or renamed, by the process that held it
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _flock(handle: int, *, wait: bool) -> None:
    """Lock, where the file system supports locks; some file systems of clusters do not."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


@contextmanager
def _locked_file(partial: Path) -> Generator[BinaryIO]:
    """An empty file that no other process writes at the same time."""
    if not partial.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(partial))
    handle = _lock(partial, owner=None)
    file = os.fdopen(handle, "wb")
    try:
        os.ftruncate(handle, 0)
        yield file
    except BaseException:
        with suppress(OSError):  # buffered data does not fit either; the first error is raised
            file.close()
        raise
    file.close()
