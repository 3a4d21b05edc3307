r"""Files that a table or manifest names, under either form of Unicode and of separators, and addresses.

macOS writes "é" as two characters (NFD), most other systems as one (NFC), and Windows writes `clips\a.wav`. A name is
looked up unchanged first, then in the other forms.
"""

import difflib
import functools
import os
import re
import unicodedata
import urllib.parse
from pathlib import Path

from speechssl.config import UserError
from speechssl.data.values import composed

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_LOCAL = re.compile(r"file:(?://(?:localhost)?)?(?=/)", re.IGNORECASE)
_ADVICE = {  # by suffix: the kind of a file, and what to do with it
    **dict.fromkeys((".zip", ".7z", ".rar"), "an archive; unpack it and give its folder"),
    **dict.fromkeys(
        (".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst"),
        "a compressed file, which is not read; unpack it, and give the folder or the plain file (.tar, .jsonl …)",
    ),
    **dict.fromkeys((".xlsx", ".xls", ".ods", ".numbers"), "a spreadsheet; save the table as .csv"),
    **dict.fromkeys((".json", ".ndjson"), "not read as a table; write one JSON object per line into a .jsonl"),
    ".txt": "a text; a list of files is read from standard input ('-'), a table from a .csv or .tsv",
}
_LOOKED_THROUGH = 20_000  # names that are compared with that of a missing file


def is_address(name: str) -> bool:
    """Whether a name is an address, not a path.

    >>> is_address("s3://bucket/a.wav"), is_address("C:/a.wav"), is_address("a.wav")
    (True, False, False)
    """
    return _ADDRESS.match(name) is not None


def local_path(name: str) -> str:
    """An address of this machine as a path; any other name as it is.

    >>> local_path("file:///a%20b.wav"), local_path("file://localhost/c.wav"), local_path("s3://bucket/d.wav")
    ('/a b.wav', '/c.wav', 's3://bucket/d.wav')
    """
    found = _LOCAL.match(name)
    return urllib.parse.unquote(name[found.end() :]) if found else name


def advice_on(path: Path) -> str:
    """Kind of a file that cannot be read, and what to do; empty for an unknown kind.

    >>> advice_on(Path("table.xlsx"))
    'a spreadsheet; save the table as .csv'
    """
    return _ADVICE.get(path.suffix.lower(), "")


def scheme_of(name: str) -> str:
    """The scheme of an address in lower case, such as "s3"; empty for a path."""
    return name.partition("://")[0].lower() if is_address(name) else ""


def check_pointer(audio: str, source: str, *, allow_remote: bool) -> None:
    """Refuses a file or address that a manifest may not name.

    Args:
        audio: the file or address.
        source: path or address of the manifest.
        allow_remote: whether any address is allowed; by default only those of the manifest's scheme are.

    Raises:
        UserError: an address of another scheme, or a local file in a manifest behind an address.
    """
    own, other = scheme_of(source), scheme_of(audio)
    if own and not other:
        raise UserError(f"{source}: names the local file {audio}; a manifest behind an address may name addresses only")
    if other != own and not allow_remote:
        what = "an address" if not own else f"an address of another scheme than {own}"
        raise UserError(f"{source}: names {audio}, {what}; --allow-remote (allow_remote=True) reads it")


def located(folder: str | Path, name: str) -> str:
    r"""The path of a file with its spelling on the disk.

    Args:
        folder: what a relative name is relative to.
        name: from a table, a manifest or a user.

    Returns:
        The path that exists; where none does, the one that was tried first.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Path(folder, "gru\u0308n.wav").touch()
    ...     located(folder, ".\\gr\u00fcn.wav") == os.path.join(folder, "gru\u0308n.wav")
    True
    """
    path = os.path.normpath(os.path.join(folder, name))  # noqa: PTH118 -- a million times
    if os.path.exists(path):  # noqa: PTH110
        return path
    spelt = [path]
    if "\\" in name:
        spelt.append(os.path.normpath(os.path.join(folder, name.replace("\\", "/"))))  # noqa: PTH118
    for each in spelt:
        found = each if os.path.exists(each) else None if each.isascii() else _other_form(each)  # noqa: PTH110
        if found is not None:
            return found
    return path


def nearest(path: str, folder: Path) -> str:
    """Hint for a missing file: the existing file with the most similar name.

    Args:
        path: the missing file.
        folder: searched for a file of the same name, for example the table's folder.
    """
    wanted = Path(path.replace("\\", "/"))
    for parent, _, names in _walk(folder):
        for name in names:
            known = composed(name).casefold()
            if composed(wanted.name).casefold() in (known, known.rpartition(".")[0]):
                return f"the nearest that exists: {Path(parent, name)}"
    there = next((each for each in wanted.parents if each.is_dir()), Path("/"))
    missing = wanted.relative_to(there).parts[0] if wanted != there else wanted.name
    names = sorted(each.name for each in there.iterdir()) if os.access(there, os.R_OK) else []
    close = difflib.get_close_matches(missing, names, n=1, cutoff=0.5)
    if close:
        return f"the nearest that exists: {there / close[0]}"
    return f"{there} holds {', '.join(names[:3]) + (' …' if len(names) > 3 else '') if names else 'nothing'}"


def missing_path(path: str | Path) -> UserError:
    """The error for a missing source, with the most similar existing one.

    >>> str(missing_path("/no-such-folder/a")).partition(";")[0]
    '/no-such-folder/a: no such file or folder'
    """
    whole = Path(path).absolute()
    return UserError(f"{path}: no such file or folder; {nearest(str(whole), whole.parent)}")


def _walk(folder: Path) -> list[tuple[str, list[str], list[str]]]:
    found: list[tuple[str, list[str], list[str]]] = []
    count = 0
    for each in os.walk(folder):
        found.append(each)
        count += len(each[2]) + 1
        if count > _LOOKED_THROUGH:
            break
    return found


def _other_form(path: str) -> str | None:
    """The same path with parts in another Unicode form, where it exists."""
    for form in ("NFC", "NFD"):
        other = unicodedata.normalize(form, path)
        if os.path.exists(other):  # noqa: PTH110
            return other
    here = Path(path).anchor or "."
    for part in Path(path).parts[1 if Path(path).anchor else 0 :]:
        step = os.path.join(here, part)  # noqa: PTH118
        if not os.path.exists(step):  # noqa: PTH110
            name = _names(here).get(composed(part))
            if name is None:
                return None
            step = os.path.join(here, name)  # noqa: PTH118
        here = step
    return here


@functools.lru_cache(maxsize=16)
def _names(folder: str) -> dict[str, str]:
    """Names in a folder, by their form NFC."""
    try:
        return {composed(name): name for name in sorted(os.listdir(folder))}  # noqa: PTH208 -- names, not paths
    except OSError:
        return {}
