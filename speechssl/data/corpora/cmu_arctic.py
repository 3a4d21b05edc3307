"""CMU Arctic: the same 1,132 English sentences read by several speakers in a studio.

Story: made for speech synthesis; because every voice reads the same sentences, it can test a recogniser that was
trained on one voice with another. By default `bdl` (a man) and `slt` (a woman).
Licence: CMU Arctic terms: free for any use with attribution (BSD-like).
Citation: Kominek, Black, "The CMU Arctic speech databases", 5th ISCA Speech Synthesis Workshop, 2004.

Layout, as published: `cmu_us_slt_arctic/wav/arctic_a0001.wav` and `cmu_us_slt_arctic/etc/txt.done.data` (lines such as
`( arctic_a0001 "Text." )`); checksums as torchaudio 2.11 has them.
`bdl` and `slt` also come as the pack `cmu_arctic` (`SPEECHSSL_PACKS`). A mirror (`SPEECHSSL_MIRROR_CMU_ARCTIC`) serves
`cmu_us_slt_arctic.tar.bz2` and so on.
"""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

import pydantic

from speechssl.config import Config, UserError
from speechssl.data.corpora import CorpusInfo, duration_of
from speechssl.data.corpora.download import fetch_folder, mirror, say_fetching
from speechssl.data.corpora.folder_walk import visible_files
from speechssl.data.corpora.packs import pack_utterances, unpack_pack
from speechssl.data.manifest import Utterance

INFO = CorpusInfo(
    name="cmu_arctic",
    story="Real: a man and a woman read the same 1,132 English sentences in a studio; transcribed.",
    licence="CMU Arctic terms: free with attribution (BSD-like)",
    citation="Kominek and Black, The CMU Arctic speech databases, SSW5, 2004",
    source="http://www.festvox.org/cmu_arctic",
    hours=1.79,
    utterances=2264,
    speakers=2,
    synthetic=False,
)

_BASE = "http://www.festvox.org/cmu_arctic/packed"
_SENTENCES = 1132
Speaker = Literal["awb", "bdl", "clb", "jmk", "ksp", "rms", "slt"]  # the seven with all sentences
_CHECKSUMS: Mapping[str, str] = MappingProxyType(
    {
        "awb": "sha256:d74a950c9739a65f7bfc4dfa6187f2730fa03de5b8eb3f2da97a51b74df64d3c",
        "bdl": "sha256:26b91aaf48b2799b2956792b4632c2f926cd0542f402b5452d5adecb60942904",
        "clb": "sha256:3f16dc3f3b97955ea22623efb33b444341013fc660677b2e170efdcc959fa7c6",
        "jmk": "sha256:3a37c0e1dfc91e734fdbc88b562d9e2ebca621772402cdc693bbc9b09b211d73",
        "ksp": "sha256:8029cafce8296f9bed3022c44ef1e7953332b6bf6943c14b929f468122532717",
        "rms": "sha256:c6dc11235629c58441c071a7ba8a2d067903dfefbaabc4056d87da35b72ecda4",
        "slt": "sha256:7c173297916acf3cc7fcab2713be4c60b27312316765a90934651d367226b4ea",
    }
)
_WOMEN = frozenset({"clb", "slt"})
_PROMPT = re.compile(r'\(\s*(\S+)\s+"(.*)"\s*\)')

_log = logging.getLogger(__name__)


class Settings(Config):
    """Options of CMU Arctic.

    Attributes:
        speakers: voices, in this order.
    """

    speakers: Annotated[tuple[Speaker, ...], pydantic.Field(min_length=1)] = ("bdl", "slt")


def prepare(root: Path, settings: Settings = Settings()) -> Iterator[Utterance]:  # noqa: B008 -- settings are frozen
    """Find, unpack or fetch the voices, at once; then yield their utterances by speaker and sentence.

    Args:
        root: holds `cmu_us_SPEAKER_arctic/` (itself or in `ARCTIC`, torchaudio's folder), or will.
        settings: see `Settings`.

    Returns:
        Utterances with text (as written), speaker, language "en"; extra `sex`.

    Raises:
        UserError: a download or an archive fails, or a voice has no recordings.
    """
    root = Path(root).resolve()
    speakers = tuple(dict.fromkeys(settings.speakers))
    missing = {speaker for speaker in speakers if _find(root, speaker) is None}
    pack = unpack_pack("cmu_arctic", root) if missing else None
    packed = [each for each in pack_utterances(pack) if each.speaker in missing] if pack else []
    for speaker in sorted(missing - {each.speaker for each in packed}):
        _fetch(root, speaker)
    return _read_all(root, speakers, packed)


def _folder(speaker: str) -> str:
    return f"cmu_us_{speaker}_arctic"


def _find(root: Path, speaker: str) -> Path | None:
    name = _folder(speaker)
    return next((each for each in (root / name, root / "ARCTIC" / name) if (each / "wav").is_dir()), None)


def _read_all(root: Path, speakers: Sequence[str], packed: Sequence[Utterance]) -> Iterator[Utterance]:
    for speaker in speakers:
        from_pack = [each for each in packed if each.speaker == speaker]
        folder = _find(root, speaker)
        if from_pack or folder is None:
            yield from from_pack
        else:
            yield from _read(folder, speaker)


def _read(folder: Path, speaker: str) -> Iterator[Utterance]:
    paths = visible_files(folder / "wav", "*.wav")
    if not paths:
        raise UserError(f"{folder}: no wav/*.wav in it; delete it to fetch it again")
    if len(paths) != _SENTENCES:
        _log.warning("%s: %d recordings, expected %d", folder, len(paths), _SENTENCES)
    prompts = folder / "etc" / "txt.done.data"
    if not prompts.is_file():
        raise UserError(f"{prompts}: missing; delete {folder} to fetch it again")
    texts = {match[1]: match[2].replace('\\"', '"') for match in _PROMPT.finditer(prompts.read_text("utf-8"))}
    for path in paths:
        yield Utterance(
            audio=str(path),
            duration=duration_of(path),
            speaker=speaker,
            text=texts.get(path.stem),
            language="en",
            extras={"sex": "female" if speaker in _WOMEN else "male"},
        )


def _fetch(root: Path, speaker: str) -> None:
    name = _folder(speaker)
    say_fetching(root, f"{name}/wav", f"ARCTIC/{name}/wav")
    url = f"{mirror('cmu_arctic', _BASE)}{name}.tar.bz2"
    fetch_folder(url, root / name, holds=f"{name}/wav", checksum=_CHECKSUMS[speaker])
