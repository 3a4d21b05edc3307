"""Downloads, with progress, resuming and checksums, complete or not at all; and safe unpacking.

A file is downloaded as `NAME.part` and renamed when its checksum is right, so a file with its final name is complete.
A broken download is resumed with an HTTP Range request, at once or by the next call. Base addresses come from
environment variables, so that a mirror (or a test) can serve the official layout.
"""

import contextlib
import hashlib
import http.client
import logging
import lzma
import os
import shutil
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import rich.console
import rich.progress

from speechssl.answers import answer
from speechssl.config import UserError
from speechssl.files import move

_BLOCK = 1 << 18  # bytes read at once
_TIMEOUT = 60  # s without a byte
_ATTEMPTS = 5  # in a row that bring no new byte
_PAUSE = 1.0  # s before another attempt

_log = logging.getLogger(__name__)


def mirror(corpus: str, default: str) -> str:
    """The base address of a corpus: the environment variable `SPEECHSSL_MIRROR_CORPUS`, else the official one.

    Args:
        corpus: its name in lower case; the variable has it in upper case.
        default: the official base address.

    Returns:
        An http or https address that ends in "/".

    Raises:
        UserError: the variable holds something else.

    >>> mirror("nosuchcorpus", "https://example.org/resources/12")
    'https://example.org/resources/12/'
    """
    variable = f"SPEECHSSL_MIRROR_{corpus.upper()}"
    address = os.environ.get(variable) or default
    if urllib.parse.urlsplit(address).scheme not in ("http", "https"):
        raise UserError(f"{variable}: given {address!r}, allowed: an http or https address")
    return address.rstrip("/") + "/"


def say_fetching(root: Path, *layouts: str) -> None:
    """Logs which layouts were searched for in a corpus folder before it is fetched.

    Args:
        root: the folder.
        layouts: files and folders that would be used, relative to it.
    """
    _log.warning("%s: looked for %s and did not find it; fetching the corpus", root, " or ".join(layouts))


def download(url: str, path: Path, *, checksum: str | None = None) -> None:
    """Fetches a file unless it exists. Progress goes to stderr.

    Args:
        url: http or https.
        path: of the file; its folder is made.
        checksum: "sha256:HEX" or "md5:HEX"; None where the publisher gives none.

    Raises:
        UserError: the server refuses or cannot be reached (the downloaded part is kept for the next call), the disk is
            full, or the checksum is wrong (the download is deleted).
    """
    if path.exists():
        return
    part = path.with_name(f"{path.name}.part")
    with (
        new_folder(path.parent),
        rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.DownloadColumn(),
            rich.progress.TransferSpeedColumn(),
            rich.progress.TimeRemainingColumn(),
            console=rich.console.Console(stderr=True),
        ) as progress,
    ):
        _fetch_all(url, part, progress=progress, task=progress.add_task(path.name, total=None))
        if checksum is not None:
            _check(part, checksum, url=url)
        move(part, path, flush=True)


@contextlib.contextmanager
def new_folder(folder: Path) -> Generator[None]:
    """Makes a folder; after a failure the new folders are removed if they are empty.

    Otherwise a misspelt root would exist afterwards, and look like an incomplete corpus.
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # not empty
            for each in made:
                each.rmdir()
        raise


@dataclass(frozen=True)
class Limits:
    """Limits of unpacking an archive; more is refused before it is written.

    Attributes:
        files: number of members.
        ratio: bytes unpacked per byte of the archive. Speech in wav packs to a third; long silence to a hundredth.
        free: bytes that any archive may unpack to, for any ratio.
    """

    files: int = 5_000_000
    ratio: int = 200
    free: int = 1 << 30


def extract(archive: Path, folder: Path, *, limits: Limits = Limits()) -> None:
    """Unpacks a tar archive (plain, gz, bz2, xz) or a zip. Progress goes to stderr.

    Members that would land outside the folder, devices, and links that lead out are refused (tarfile's "data" filter,
    PEP 706); a zip has no devices and no links here, and zipfile takes ".." and roots out of its names.

    Args:
        archive: the file.
        folder: it is made; existing files in it stay.
        limits: of the unpacked content.

    Raises:
        UserError: not such an archive, cut short or damaged, with a member that is refused, or with more in it than
            the limits or the disk allow.
    """
    folder.mkdir(parents=True, exist_ok=True)
    console = rich.console.Console(stderr=True)
    allowance = _Allowance(archive, folder, limits)
    if archive.suffix == ".zip":
        _extract_zip(archive, folder, allowance, console=console)
        return
    try:
        with (
            rich.progress.open(archive, "rb", description=f"unpacking {archive.name}", console=console) as raw,
            tarfile.open(fileobj=raw, mode="r|*") as tar,
        ):
            for member in tar:
                allowance.take(member.name, member.size)
                tar.extract(member, folder, filter="data")
                tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue] -- it keeps 1 kB of each
            _check_end(tar)
    except tarfile.FilterError as error:
        raise UserError(f"{archive}: refused to unpack it: {error}") from None
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{archive}: not a whole tar archive ({error}); delete it and try again") from None
    except OSError as error:  # gzip's bad checksum is one, too
        raise UserError(f"{archive}: cannot be unpacked: {error.strerror or error}") from None


def fetch_folder(url: str, folder: Path, *, holds: str, checksum: str | None = None) -> None:
    """Fetches an archive and unpacks one folder of it, completely or not at all. The archive is deleted.

    Args:
        url: of the archive, http or https.
        folder: gets the files beside `holds` in the archive; the archive is next to it during the download.
        holds: a glob of something in the folder to unpack, relative to the top of the archive, such as "*/wav".
        checksum: as `download` takes it.

    Raises:
        UserError: the download or the archive fails, or the archive holds no such thing.
    """
    archive = folder.with_name(url.rpartition("/")[2])
    download(url, archive, checksum=checksum)
    work = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(work, ignore_errors=True)  # of a run that was killed
    try:
        extract(archive, work)
        found = next(iter(sorted(work.glob(holds))), None)
        if found is None:
            raise UserError(f"{archive}: no {holds!r} in it; delete it to fetch it again")
        move(found.parent, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    archive.unlink()


class _Allowance:
    """Compares the unpacked size of an archive with its limits and the disk."""

    def __init__(self, archive: Path, folder: Path, limits: Limits):
        self._archive, self._limits = archive, limits
        self._bytes = max(limits.free, limits.ratio * archive.stat().st_size)
        self._disk = shutil.disk_usage(folder).free
        self._files = self._total = 0

    def take(self, name: str, size: int) -> None:
        """Counts one more member, before it is written.

        Raises:
            UserError: too many members, or it does not fit.
        """
        self._files, self._total = self._files + 1, self._total + size
        if self._files > self._limits.files:
            raise UserError(f"{self._archive}: refused to unpack it: more than {self._limits.files} members")
        if self._total > self._bytes:
            size = self._archive.stat().st_size
            raise UserError(
                f"{self._archive}: refused to unpack it: {self._total} bytes with {name!r}, from an archive of {size} "
                f"bytes; at most {self._bytes} are unpacked"
            )
        if self._total > self._disk:
            raise UserError(
                f"{self._archive}: not unpacked: {self._total} bytes, and {self._disk} are free on the disk"
            )


def _check_end(tar: tarfile.TarFile) -> None:
    """Refuses a damaged header: tarfile takes it for the end of the tar, without an error."""
    stream = tar.fileobj
    assert stream is not None
    while block := stream.read(_BLOCK):
        if block.strip(b"\0"):
            raise tarfile.ReadError("a damaged header, with more behind it")


def _extract_zip(archive: Path, folder: Path, allowance: _Allowance, *, console: rich.console.Console) -> None:
    try:
        with zipfile.ZipFile(archive) as file:
            members = file.infolist()
            for member in members:
                allowance.take(member.filename, member.file_size)
            for member in rich.progress.track(members, description=f"unpacking {archive.name}", console=console):
                file.extract(member, folder)
    except (
        zipfile.BadZipFile,
        EOFError,
        zlib.error,
        NotImplementedError,  # a compression that Python does not support
        RuntimeError,  # encrypted
    ) as error:
        raise UserError(f"{archive}: not a whole zip archive ({error}); delete it and try again") from None
    except OSError as error:
        raise UserError(f"{archive}: cannot be unpacked: {error.strerror or error}") from None


def _fetch_all(url: str, part: Path, *, progress: rich.progress.Progress, task: rich.progress.TaskID) -> None:
    """Fetches until the file is complete, as long as one of a few attempts brings new bytes."""
    in_vain = 0
    while True:
        before = _size(part)
        try:
            if _fetch(url, part, progress=progress, task=task):
                return
            reason = "the connection broke"
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code != 429:
                raise UserError(f"{url}: {answer(error.code)}") from None
            reason = answer(error.code)
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        except OSError as error:
            raise UserError(f"{part}: {error.strerror or error}") from None
        in_vain = 0 if _size(part) > before else in_vain + 1
        if in_vain >= _ATTEMPTS:
            kept = f"; {_size(part)} bytes are kept, run the command again to resume" if _size(part) else ""
            raise UserError(f"{url}: {reason}{kept}")
        _log.info("%s: %s; trying again from byte %d", url, reason, _size(part))
        time.sleep(_PAUSE)


def _fetch(url: str, part: Path, *, progress: rich.progress.Progress, task: rich.progress.TaskID) -> bool:
    """Requests all missing bytes; returns whether the file is complete."""
    have = _size(part)
    # No compression on the way: the offsets of a resumed download count bytes of the file itself.
    headers = {"User-Agent": "speechssl", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            # The file is complete, or is part of another file: then its size differs.
            whole = (error.headers.get("Content-Range") or "").rpartition("/")[2]
            if whole == str(have):
                return True
            part.unlink()
            return False
        raise
    with response:
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        if resumed and not (response.headers.get("Content-Range") or "").startswith(f"bytes {have}-"):
            raise http.client.HTTPException("the server sends another range than was requested")
        start = have if resumed else 0  # a server without ranges sends the whole file
        length = response.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        progress.update(task, completed=start, total=total)
        with part.open("ab" if resumed else "wb") as file:
            while block := response.read(_BLOCK):
                file.write(block)
                progress.advance(task, len(block))
    return total is None or _size(part) == total


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _check(part: Path, checksum: str, *, url: str) -> None:
    kind, _, wanted = checksum.partition(":")
    with part.open("rb") as file:
        found = hashlib.file_digest(file, kind).hexdigest()
    if found != wanted.lower():
        part.unlink()
        raise UserError(f"{url}: wrong {kind} checksum: given {found}, expected {wanted}; deleted, try again")
