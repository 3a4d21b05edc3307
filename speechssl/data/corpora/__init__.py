"""Corpora: one module each, all with the same three names.

    INFO: CorpusInfo                                       what it is, whose it is, how much of it there should be
    class Settings(Config)                                 its options, every one with a default
    def prepare(root, settings=Settings()) -> Iterator[Utterance]

`prepare` fetches the audio into `root` when it is not there yet (at once, with a progress of its own; `espeak` makes it
while it is iterated), then yields one `Utterance` a clip, with an absolute path. It never stops at a bad file: one that
cannot be read is yielded with duration 0.0, and packing turns it into a reject with a reason. Mistakes of the user are
`UserError`s of one line. What lies under `root` in the official layout is used first, then a pack of real speech
(`packs`, where `SPEECHSSL_PACKS` points), then the network.

To add a corpus: write a module here, add its name to `CORPORA` and its paragraph to data/README.md.
"""

import dataclasses
import importlib
import os
from pathlib import Path
from types import ModuleType

from speechssl.config import UserError

CORPORA: tuple[str, ...] = (
    "espeak",
    "folder",
    "commonvoice",
    "fairseq",
    "huggingface",
    "kaldi",
    "lhotse",
    "nemo_manifest",
    "webdataset",
    "festvox_ru",
    "fsdd",
    "librispeech",
    "cmu_arctic",
    "crema_d",
    "emodb",
    "iemocap",
    "nemo",
    "ravdess",
    "speechocean762",
)
"""The names `load_corpus` takes; the first one is the default and needs no network."""


@dataclasses.dataclass(frozen=True)
class CorpusInfo:
    """What is known about a corpus before it is prepared.

    Attributes:
        name: its name here, as in `CORPORA`.
        story: one or two sentences: who recorded what, and for what purpose.
        licence: the licence of the audio.
        citation: whom to cite; empty when there is nobody.
        source: where it comes from (address or package).
        hours: expected hours of audio with the default settings; None when it depends on the user's files.
        utterances: expected number of utterances with the default settings; None as above.
        speakers: expected number of speakers with the default settings; None as above.
        synthetic: whether a machine made the speech. No result on synthetic speech is a result on speech.
    """

    name: str
    story: str
    licence: str
    citation: str
    source: str
    hours: float | None
    utterances: int | None
    speakers: int | None
    synthetic: bool


def load_corpus(name: str) -> ModuleType:
    """Import the module of a corpus.

    Args:
        name: one of `CORPORA`.

    Returns:
        The module, with `INFO`, `Settings` and `prepare`.

    Raises:
        UserError: no corpus of that name.

    >>> load_corpus("espeak").INFO.synthetic
    True
    >>> load_corpus("timit")
    Traceback (most recent call last):
    speechssl.config.UserError: unknown corpus 'timit'; allowed: espeak, folder, ...
    """
    if name not in CORPORA:
        raise UserError(f"unknown corpus {name!r}; allowed: {', '.join(CORPORA)}")
    return importlib.import_module(f"{__name__}.{name}")


def check_root(info: CorpusInfo, root: Path) -> None:
    """Refuse a folder or file that is not there, for a corpus that is read from where the user says.

    Args:
        info: the corpus.
        root: what the user gave: a path, a pattern, or `hf:org/name`.

    Raises:
        UserError: nothing is there; names what is most like it.
    """
    is_pattern = bool(set("{*?[") & set(str(root))) or str(root).startswith("hf:")
    if "--root" in info.source and not is_pattern and not root.exists():
        from speechssl.data.places import missing_path

        raise missing_path(root)


def corpus_root(name: str) -> Path:
    """The folder where a corpus lies unless the user says otherwise: `$SPEECHSSL_DATA/NAME`, else `data/corpora/NAME`.

    >>> corpus_root("fsdd").name
    'fsdd'
    """
    return Path(os.environ.get("SPEECHSSL_DATA") or "data/corpora") / name


def duration_of(path: str | Path) -> float:
    """Duration of an audio file by its header, s; 0.0 for one that cannot be read, so that packing says why.

    Args:
        path: of a file, or the location of a member (see `data.members`).

    >>> duration_of(Path("no-such-file.wav"))
    0.0
    """
    from speechssl.audio import AudioError, probe  # here: naming the corpora must not cost the import of soundfile
    from speechssl.data.members import local_file

    try:
        with local_file(str(path)) as file:
            return probe(file).duration
    except AudioError:
        return 0.0
