"""Formats of files by their first bytes and suffixes: readable by libsndfile, other audio, and no audio."""

from pathlib import Path

AUDIO_SUFFIXES = frozenset(
    {".wav", ".wave", ".bwf", ".flac", ".fla", ".ogg", ".oga", ".opus", ".mp3", ".mp2", ".mpga", ".gsm"}
    | {".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".w64", ".rf64", ".sph", ".nist", ".voc"}
)
"""Suffixes of files that libsndfile reads."""

_FOREIGN_NAMES = {
    ".m4a": "MPEG-4 audio (m4a)",
    ".m4b": "MPEG-4 audio (m4b)",
    ".mp4": "MPEG-4 (mp4)",
    ".mov": "QuickTime (mov)",
    ".3gp": "3GPP (3gp)",
    ".m4r": "MPEG-4 audio (m4r)",
    ".aac": "AAC (aac)",
    ".ac3": "Dolby Digital (ac3)",
    ".eac3": "Dolby Digital Plus (eac3)",
    ".dts": "DTS (dts)",
    ".ogv": "Ogg video (ogv)",
    ".mpg": "MPEG video (mpg)",
    ".mpeg": "MPEG video (mpeg)",
    ".wma": "Windows Media (wma)",
    ".asf": "Windows Media (asf)",
    ".wmv": "Windows Media (wmv)",
    ".webm": "WebM",
    ".mka": "Matroska (mka)",
    ".mkv": "Matroska (mkv)",
    ".amr": "AMR",
    ".ape": "Monkey's Audio (ape)",
    ".wv": "WavPack (wv)",
    ".mpc": "Musepack (mpc)",
    ".tta": "True Audio (tta)",
    ".spx": "Speex (spx)",
    ".ra": "RealAudio (ra)",
    ".rm": "RealMedia (rm)",
    ".dsf": "DSD (dsf)",
    ".avi": "AVI",
    ".flv": "Flash Video (flv)",
    ".silk": "SILK",
}
FOREIGN_SUFFIXES = frozenset(_FOREIGN_NAMES)
"""Suffixes of containers that hold audio but that libsndfile cannot read."""

UNREAD_SUFFIXES = frozenset(
    {".pcm", ".raw", ".vox", ".ul", ".ulaw", ".mulaw", ".al", ".alaw", ".lin", ".sln", ".adpcm", ".sw", ".s16", ".f32"}
    | {".avr", ".svx", ".8svx", ".iff", ".wve", ".sds", ".paf", ".pvf", ".sf", ".ircam", ".htk", ".sd2", ".xi"}
    | {".awb", ".aax", ".aa", ".dff", ".dss", ".ds2", ".qcp", ".shn", ".la", ".opu", ".ogx", ".weba", ".f4a"}
    | {".m4p", ".m4v", ".3g2", ".3ga", ".caff", ".evrc", ".g722", ".g723", ".g729", ".lpcm", ".mp1", ".nsp", ".adts"}
)
"""Suffixes of files that may hold sound and are not read from a folder: without a header, or rare."""

_FOREIGN_MAGIC = (  # (offset, bytes, name)
    (4, b"ftyp", "MPEG-4 (mp4, m4a)"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "Windows Media (wma)"),
    (0, b"\x1a\x45\xdf\xa3", "Matroska or WebM"),
    (0, b"#!AMR", "AMR"),
    (0, b"MAC ", "Monkey's Audio (ape)"),
    (0, b"wvpk", "WavPack (wv)"),
    (0, b"MPCK", "Musepack (mpc)"),
    (0, b"MP+", "Musepack (mpc)"),
    (0, b"TTA1", "True Audio (tta)"),
    (28, b"Speex   ", "Speex (spx)"),
    (0, b".ra\xfd", "RealAudio (ra)"),
    (0, b".RMF", "RealMedia (rm)"),
    (0, b"DSD ", "DSD (dsf)"),
    (8, b"AVI ", "AVI"),
    (0, b"FLV\x01", "Flash Video (flv)"),
    (0, b"#!SILK", "SILK"),
    (0, b"\x02#!SILK", "SILK"),
    (0, b"\x00\x00\x01\xba", "MPEG video"),
)
_OTHER_MAGIC = (
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"BZh", "a bzip2 archive"),
    (b"Rar!", "a rar archive"),
    (b"%PDF", "a PDF document"),
    (b"MThd", "a MIDI file"),
    (b"\x7fELF", "a program"),
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file itself with git lfs pull"),
)


def foreign_container(path: str | Path, head: bytes) -> str | None:
    """The name of a container that libsndfile cannot read, by the first bytes alone.

    >>> foreign_container("a.wav", b"    ftypM4A ")
    'MPEG-4 (mp4, m4a)'
    """
    for offset, magic, name in _FOREIGN_MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return _FOREIGN_NAMES.get(Path(path).suffix.lower(), name) if magic == b"ftyp" else name
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:  # MPEG sync word with layer 0: ADTS
        return "AAC (aac)"
    return None


def foreign_suffix(path: str | Path) -> str | None:
    """The name of the container that the suffix stands for, when libsndfile cannot read it.

    >>> foreign_suffix("a.WMA")
    'Windows Media (wma)'
    """
    return _FOREIGN_NAMES.get(Path(path).suffix.lower())


def other_kind(head: bytes) -> str | None:
    """Kind of a file that is not audio, by its first bytes; None when they match none.

    >>> other_kind(b"<!DOCTYPE html><html>")
    'a web page or XML'
    """
    for magic, name in _OTHER_MAGIC:
        if head.startswith(magic):
            return name
    if not _is_text(head):
        return None
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page or XML"
    return "JSON text" if text.startswith((b"{", b"[")) else "plain text"


def _is_text(head: bytes) -> bool:
    """UTF-8 without control characters; a character that the end of the block cuts is accepted."""
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:
            return False
        text = head[: error.start].decode("utf-8")
    return not any(ord(c) < 9 or 13 < ord(c) < 32 for c in text)
