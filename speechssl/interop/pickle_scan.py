"""Checks of a file of ``torch.save`` before torch reads it: its size when read, and the names in it.

The pickles of a checkpoint hold names, settings and shapes, some hundred kilobytes; the numbers are beside them. A
hostile file may be an archive that unpacks to gigabytes, or a pickle of a billion instructions. Pickles are parsed
here, instruction by instruction, and not executed.
"""

import io
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path

_PICKLE_BYTES = 1 << 25  # of the pickles
_INSTRUCTIONS = 500_000  # of all pickles together; a thousand tensors take thirty thousand
_INTEGER = 1 << 64  # numbers of a checkpoint are sizes; larger ones can be made to collide in a dictionary
_NAME = 1000  # characters of a name in a pickle
_DIRECTORY_BYTES = 1 << 22  # of an archive's list of members
_PICKLES_BEFORE_ZIP = 4  # before torch 1.6: a magic number, the format, the machine, the content


class ScanError(ValueError):
    """Error for a file that is not passed to torch, with the reason."""


def scan(path: Path) -> set[str]:
    """Every global named in a file of ``torch.save``.

    Raises:
        ScanError: it is larger when read than a checkpoint, or of another kind.
        Exception: any error of `zipfile` and `pickletools` on damaged bytes.
    """
    if not zipfile.is_zipfile(path):
        with path.open("rb") as stream:
            return _globals(stream.read(_PICKLE_BYTES), pickles=_PICKLES_BEFORE_ZIP)
    _check_directory(path)
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        _check_members(members, size=path.stat().st_size)
        pickles = [member for member in members if member.filename.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ScanError(f"a zip archive with {len(pickles)} files named data.pkl; torch.save writes one")
        if pickles[0].file_size > _PICKLE_BYTES:
            raise ScanError(f"{pickles[0].filename} has {pickles[0].file_size} bytes; at most {_PICKLE_BYTES} are read")
        return _globals(archive.read(pickles[0]), pickles=1)


def _check_directory(path: Path) -> None:
    """Check the size of the list of members, which is stored near the end of the file, before it is read."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - (1 << 16) - 22 - 76))
        tail = file.read()
    end = tail.rfind(b"PK\x05\x06")
    size = int.from_bytes(tail[end + 12 : end + 16], "little")
    large = tail.rfind(b"PK\x06\x06", 0, end)
    if size == 0xFFFFFFFF and large >= 0:
        size = int.from_bytes(tail[large + 40 : large + 48], "little")
    if size > _DIRECTORY_BYTES:
        raise ScanError(f"a zip archive whose list of members takes {size} bytes; at most {_DIRECTORY_BYTES} are read")


def _check_members(members: list[zipfile.ZipInfo], *, size: int) -> None:
    names = [member.filename for member in members]
    if any(name.endswith("/constants.pkl") for name in names):
        raise ScanError("a TorchScript archive, which is a program; save the model's state dict instead")
    if len(set(names)) < len(names):
        raise ScanError("a zip archive in which two files have one name")
    for member in members:
        # torch maps members into memory without decompression: compressed bytes would be read as numbers.
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise ScanError(f"{member.filename} is compressed to {member.compress_size} of {member.file_size} bytes")
        if member.file_size > size:
            raise ScanError(f"{member.filename} claims {member.file_size} bytes of an archive of {size}")


def _globals(content: bytes, *, pickles: int) -> set[str]:
    names: set[str] = set()
    for number, (name, argument) in enumerate(_instructions(content, pickles=pickles)):
        if number >= _INSTRUCTIONS:
            raise ScanError(f"its pickles have more than {_INSTRUCTIONS} instructions")
        if name == "GLOBAL":
            if len(str(argument)) > _NAME:  # torch searches its own message for names, in quadratic time
                raise ScanError(f"its pickles have a name of {len(str(argument))} characters")
            names.add(str(argument).replace(" ", ".").replace("__builtin__.", "builtins."))
        # The first pickle of an old file is torch's magic number, of ten bytes.
        elif isinstance(argument, int) and abs(argument) >= _INTEGER and argument != _MAGIC:
            raise ScanError("its pickles hold an integer of more than 64 bits")
    return names


_MAGIC = 0x1950A86A20F9469CFC6C  # torch.serialization.MAGIC_NUMBER


def _instructions(content: bytes, *, pickles: int) -> Iterator[tuple[str, object]]:
    stream = io.BytesIO(content)  # arguments longer than the content are truncated
    for _ in range(pickles):
        for opcode, argument, _ in pickletools.genops(stream):
            yield opcode.name, argument
