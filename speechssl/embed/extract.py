"""A folder of audio, or a manifest, to one Parquet file of vectors.

Clips are decoded in threads, one chunk ahead of the model; inside a chunk the model takes them in batches by duration.
Memory is bounded by two chunks whatever the number of files (and by the longest single file). A file that cannot be
used gets a line in OUT.errors.jsonl and nothing stops. The result appears under its name when it is whole.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from speechssl import __version__
from speechssl.audio import SAMPLE_RATE, AudioError, check_waveform, decode, samples_to_seconds
from speechssl.config import UserError
from speechssl.data.corpora import folder as audio_folder
from speechssl.data.manifest import Reject, Utterance, json_line, read_manifest
from speechssl.embed.embedder import EmbeddingModel, load
from speechssl.embed.encoding import Layer, Pooling, Waveform
from speechssl.embed.writers import VectorWriter
from speechssl.models.storage import model_hash

CHUNK_SECONDS = 240.0  # of audio decoded together; at 16 kHz float32 this is 15 MB
CHUNK_CLIPS = 512


@dataclass(frozen=True)
class ExtractReport:
    """What `extract` did.

    Attributes:
        written: rows in the Parquet file.
        failed: clips left out; each has a line in `errors`.
        seconds: audio embedded, s.
        dim: length of a vector.
        errors: the file with the reasons; None when nothing failed.
    """

    written: int
    failed: int
    seconds: float
    dim: int
    errors: Path | None


def extract(
    model_folder: Path,
    source: Path,
    out: Path,
    *,
    pooling: Pooling = "mean",
    layer: Layer = -1,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> ExtractReport:
    """Embed every clip of a folder or manifest.

    Args:
        model_folder: a model folder.
        source: a folder of audio (all of the tree below it, labelled as the corpus `folder` labels it), or a manifest
            (`.jsonl`).
        out: the Parquet file (see `writers`). Paths in it are relative to the folder of the source where they lie
            below it.
        pooling: as in `EmbeddingModel.embed`.
        layer: the same.
        device: as in `embedder.load`.
        progress: called with the clips done and the clips in all, after each chunk and once at the start.

    Returns:
        The counts.

    Raises:
        UserError: no model, no source, no audio in it, an unknown pooling or layer, or `out` is a folder.
    """
    if out.is_dir():
        raise UserError(f"{out}: is a folder; give the name of a Parquet file")
    model = load(model_folder, device=device)
    # Settings are checked, and the width is learnt, before hours of decoding.
    probe = np.sin(np.arange(SAMPLE_RATE, dtype=np.float32))
    dim = model.embed_layers([probe], pooling=pooling, layers=[layer]).shape[-1]
    utterances, root = _read_source(source)
    settings = {
        "version": __version__,
        "model": str(model_folder),
        "model_hash": model_hash(model_folder),
        "pooling": pooling,
        "layer": layer,
        "dim": dim,
        "source": str(source),
    }
    rejects: list[Reject] = []
    samples = done = 0
    if progress is not None:
        progress(0, len(utterances))
    with VectorWriter(out, utterances, dim=dim, settings=settings) as writer:
        for chunk in _decoded(utterances):
            good = [(item, clip) for item, clip in chunk if not isinstance(clip, AudioError)]
            rejects += [_reject(item, clip) for item, clip in chunk if isinstance(clip, AudioError)]
            if good:
                _write(writer, model, good, root=root, pooling=pooling, layer=layer)
            samples += sum(len(clip) for _, clip in good)
            done += len(chunk)
            if progress is not None:
                progress(done, len(utterances))
    errors = _write_errors(out.with_name(f"{out.name}.errors.jsonl"), rejects)
    return ExtractReport(
        written=done - len(rejects),
        failed=len(rejects),
        seconds=samples_to_seconds(samples),
        dim=dim,
        errors=errors,
    )


def _read_source(source: Path) -> tuple[list[Utterance], Path]:
    """The clips of a folder or manifest, and the folder that their paths are told relative to."""
    if source.is_dir():
        if (source / "waveforms.json").is_file():
            raise UserError(f"{source}: a prepared corpus; give its {source / 'manifest.jsonl'} to embed its files")
        return list(audio_folder.prepare(source)), source.resolve()
    if not source.exists():
        raise UserError(f"{source}: no such folder or manifest")
    if source.suffix != ".jsonl":
        raise UserError(f"{source}: give a folder of audio or a manifest (.jsonl)")
    utterances = read_manifest(source)
    if not utterances:
        raise UserError(f"{source}: the manifest is empty")
    return utterances, source.absolute().parent


def _chunks(utterances: Sequence[Utterance]) -> Iterator[list[Utterance]]:
    chunk: list[Utterance] = []
    seconds = 0.0
    for item in utterances:
        if chunk and (seconds + item.duration > CHUNK_SECONDS or len(chunk) == CHUNK_CLIPS):
            yield chunk
            chunk, seconds = [], 0.0
        chunk.append(item)
        seconds += item.duration
    if chunk:
        yield chunk


def _decoded(utterances: Sequence[Utterance]) -> Iterator[list[tuple[Utterance, Waveform | AudioError]]]:
    """Chunks with their waveforms, or why there is none, in order; the next chunk is decoded meanwhile."""
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        waiting: list[tuple[Utterance, Future[Waveform | AudioError]]] = []
        for chunk in _chunks(utterances):
            ahead = [(item, pool.submit(_decode, item)) for item in chunk]
            if waiting:
                yield [(item, future.result()) for item, future in waiting]
            waiting = ahead
        if waiting:
            yield [(item, future.result()) for item, future in waiting]


def _decode(item: Utterance) -> Waveform | AudioError:
    try:
        waveform = decode(item.audio, item.offset, duration=item.duration or None)
        check_waveform(waveform, item.audio)
    except AudioError as error:
        return error
    return waveform


def _write(
    writer: VectorWriter,
    model: EmbeddingModel,
    good: Sequence[tuple[Utterance, Waveform]],
    *,
    root: Path,
    pooling: Pooling,
    layer: Layer,
) -> None:
    vectors = model.embed_layers([clip for _, clip in good], pooling=pooling, layers=[layer])[0]
    items = [item.model_copy(update={"duration": samples_to_seconds(len(clip))}) for item, clip in good]
    writer.write([_relative(item.audio, root) for item in items], items, vectors=vectors)


def _relative(audio: str, root: Path) -> str:
    path = Path(audio)
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else audio


def _reject(item: Utterance, error: AudioError) -> Reject:
    return Reject(audio=item.audio, reason=error.reason, offset=item.offset or None)


def _write_errors(path: Path, rejects: Sequence[Reject]) -> Path | None:
    if not rejects:
        path.unlink(missing_ok=True)  # of an earlier run
        return None
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text("".join(f"{json_line(reject)}\n" for reject in rejects), encoding="utf-8")
    partial.replace(path)
    return path
