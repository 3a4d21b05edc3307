"""Corpora: one module each, all with the same three names.

    INFO: CorpusInfo                                       description, licence, expected size
    class Settings(Config)                                 its options, with defaults
    def prepare(root, settings=Settings()) -> Iterator[Utterance]

`prepare` fetches the audio into `root` when it is missing (at once, with its own progress bar; `espeak` synthesises it
during the iteration), then yields one `Utterance` per clip, with an absolute path. It does not stop at a bad file: one
that cannot be read has duration 0.0, and packing rejects it with a reason. Mistakes of the user are `UserError`s of one
line. Files under `root` in the official layout are used first, then a pack of real speech (`packs`, in the folder
`SPEECHSSL_PACKS`), then the network.

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
    """Facts about a corpus before it is prepared.

    Attributes:
        name: its name here, as in `CORPORA`.
        story: one or two sentences: who recorded what, and for what purpose.
        licence: the licence of the audio.
        citation: publication to cite; empty when there is none.
        source: address or package.
        hours: expected hours of audio with the default settings; None when it depends on the user's files.
        utterances: expected number of utterances with the default settings; None as above.
        speakers: expected number of speakers with the default settings; None as above.
        synthetic: whether the speech is synthetic. Results on synthetic speech do not apply to real speech.
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
    """Refuses a missing folder or file, for a corpus that the user has.

    Args:
        info: the corpus.
        root: a path, a pattern, or `hf:org/name`.

    Raises:
        UserError: it does not exist; names the most similar one.
    """
    is_pattern = bool(set("{*?[") & set(str(root))) or str(root).startswith("hf:")
    if "--root" in info.source and not is_pattern and not root.exists():
        from speechssl.data.places import missing_path

        raise missing_path(root)


def corpus_root(name: str) -> Path:
    """Default folder of a corpus: `$SPEECHSSL_DATA/NAME`, else `data/corpora/NAME`.

    >>> corpus_root("fsdd").name
    'fsdd'
    """
    return Path(os.environ.get("SPEECHSSL_DATA") or "data/corpora") / name


def duration_of(path: str | Path) -> float:
    """Duration of an audio file by its header, s; 0.0 for one that cannot be read, so that packing gives the reason.

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
