"""Makes the bundled model (`speechssl/assets/bundled`) of a pretrained one; for maintainers, `make bundle` calls it.

    python -m speechssl.experiments.bundle runs/tiny --name tiny --version 1 --data data.md --results a.json

Twice: without results first, then with those that `speechssl evaluate bundled` gives, so that the card's numbers are
those of the weights that are shipped. The encoder is kept, in float16, and the embedding of masked frames, from which
fine-tuning starts. float16 has three bits more than bfloat16, and weights do not need its range.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pydantic
import torch
import typer

from speechssl import __version__
from speechssl.audio import SAMPLE_RATE
from speechssl.config import UserError
from speechssl.data.locations import location_of
from speechssl.data.store_index import has_index
from speechssl.data.training_audio import TrainingAudio, read_training_audio, write_training_audio
from speechssl.data.waveforms import WaveformStore
from speechssl.embed.embedder import load
from speechssl.experiments.bundle_card import Facts, card
from speechssl.files import replacing_path, write_atomic
from speechssl.metrics.results import MODEL, ResultRow, read_results
from speechssl.models.bundled import MANIFEST, SHIPPED, Manifest
from speechssl.models.storage import EMBEDDING, load_encoder, model_hash, read_model_config, read_tensors, save_model
from speechssl.terminal import say

_MOST_MARKS = 2**17  # 1.4 MB: about three per second of 14 hours
MIN_COSINE = 0.9999  # between embeddings of the float32 and the float16 weights
MOST_BYTES = 20_000_000  # of the weights: every installation downloads them
_PROVENANCE = ("hours", "steps", "seconds_seen", "synthetic")


@dataclass(frozen=True)
class Made:
    """Result of :func:`bundle`: the folder, the model's name and hash, bytes of all files, and the smallest cosine."""

    folder: Path
    name: str
    digest: str
    size: int
    cosine: float


def bundle(
    model: Path, out: Path, *, name: str, version: str, data: str, results: Sequence[Path] = (), limits: str = ""
) -> Made:
    """Write a bundled model; an older one in the folder is replaced.

    Args:
        model: a pretrained model folder, with the layer and pooling that `speechssl choose` wrote.
        out: the folder, `speechssl/assets/bundled` of the tree.
        name: of the model: small letters, digits, `-`, `_`, `.`.
        version: of the weights: digits and dots.
        data: Markdown of the card: each corpus of pretraining with its licence and attribution.
        results: files of `speechssl evaluate`, of these very weights.
        limits: Markdown of the card: further limits.

    Raises:
        UserError: not a pretrained model, results of other weights or on a corpus that the layer was chosen on, no
            data, or weights that float16 cannot hold.
    """
    config = read_model_config(model)
    if config["encoder"] is None or "head" in config:
        raise UserError(f"{model}: a pretrained encoder is bundled, without a head")
    if not data.strip():
        raise UserError("the card needs the data of pretraining, with licences and attributions")
    if len({path.stem for path in results}) < len(results):
        raise UserError("results: each file needs a name of its own, which becomes its heading in the card")
    try:
        manifest = Manifest(name=name, version=version, sha256={})
    except pydantic.ValidationError:
        raise UserError(f"name {name!r} or version {version!r}: as in tiny-digits and 1.2, in small letters") from None
    full = f"{name}-{version}"
    with replacing_path(out) as made:
        _write_weights(model, made, config, name=full)
        digest, cosine = model_hash(made), _cosine(model, made)
        if cosine < MIN_COSINE:
            raise UserError(f"{model}: in float16 its embeddings differ (cosine {cosine:.6f}, at least {MIN_COSINE})")
        pretraining = read_training_audio(model).pretraining
        # Paths are those of one machine. Fewer marks make the package smaller; some short cuts are not found then.
        fewer = pretraining.marks.within(_MOST_MARKS)
        record = replace(pretraining, stretches={}, speakers=frozenset(), marks=fewer)
        write_training_audio(made, TrainingAudio(pretraining=record))
        rows = {path.stem: _checked(path, digest, config) for path in results}
        facts = Facts.of(read_model_config(made), encoder=load_encoder(made), name=full, digest=digest, cosine=cosine)
        write_atomic(made / "README.md", card(facts, data=data, results=rows, limits=limits))
        sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(made.iterdir())}
        content = manifest.model_copy(update={"sha256": sums}).model_dump()
        write_atomic(made / MANIFEST, json.dumps(content, indent=2) + "\n")
    return Made(out, full, digest, sum(path.stat().st_size for path in out.iterdir()), cosine)


def _write_weights(model: Path, out: Path, config: dict[str, Any], *, name: str) -> None:
    """Write the model folder: encoder and embedding of masked frames in float16."""
    encoder = load_encoder(model)
    found = read_tensors(model / "model.safetensors", prefix="objective.")
    mask = {f"objective.{key}": each for key, each in found.items() if key == "mask_embedding"}
    odd = [key for key, each in {**encoder.state_dict(), **mask}.items() if not each.half().isfinite().all()]
    if odd:
        raise UserError(f"{model}: {odd[0]} is beyond the range of float16")
    table = {EMBEDDING: config[EMBEDDING]} if EMBEDDING in config else {}
    extra = {**table, "provenance": _provenance(config, name=name)}
    save_model(out, encoder.half(), extra=extra, tensors={key: each.half() for key, each in mask.items()})
    size = (out / "model.safetensors").stat().st_size
    if size > MOST_BYTES:
        raise UserError(f"{model}: {size / 1e6:.0f} MB of weights are too many to ship; at most {MOST_BYTES // 10**6}")


def _provenance(config: dict[str, Any], *, name: str) -> dict[str, object]:
    """What of a run's provenance is true on every machine: amounts and names, no paths."""
    old = dict(config.get("provenance") or {})
    return {
        "speechssl": __version__,
        "bundled": name,
        "objective": dict(config.get("objective") or {}).get("name"),
        "corpora": [Path(each).name for each in old.get("corpora", [])],
        **{key: old[key] for key in _PROVENANCE if key in old},
    }


def _cosine(model: Path, out: Path) -> float:
    """Smallest cosine between embeddings of both folders, over layers, of noise and tones."""
    rng = np.random.default_rng(0)
    times = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    tones = [np.sin(2 * np.pi * pitch * times * (1 + 0.1 * times)) for pitch in (110, 220, 880)]
    clips = [(0.1 * each).astype(np.float32) for each in (*tones, rng.standard_normal(len(times)))]
    vectors: list[torch.Tensor] = []
    for folder in (model, out):
        loaded = load(folder, device="cpu")
        vectors.append(torch.from_numpy(loaded.embed_layers(clips, layers=range(loaded.layers + 1))))
    return float(torch.cosine_similarity(vectors[0], vectors[1], dim=-1).min())


def _checked(path: Path, digest: str, config: dict[str, Any]) -> list[ResultRow]:
    """Rows of a results file, of these weights and on data that nothing was chosen on."""
    rows = read_results(path)
    others = {row.model_hash for row in rows if row.family == MODEL} - {digest}
    if others or not any(row.family == MODEL for row in rows):
        raise UserError(f"{path}: not results of these weights ({digest}); make them with `speechssl evaluate bundled`")
    chosen = dict(dict(config.get(EMBEDDING) or {}).get("chosen_on") or {}).get("corpora", [])
    for corpus in sorted({row.corpus for row in rows}):
        if _chosen_on(Path(corpus), chosen):
            raise UserError(f"{path}: on {corpus}, on which the layer was chosen; report results on other corpora")
    return rows


def _chosen_on(corpus: Path, chosen: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a corpus is one that the layer was chosen on: by its samples or, where it is gone, by its name."""
    if has_index(location_of(corpus)):
        return WaveformStore(corpus).content_hash() in {each.get("content") for each in chosen}
    return corpus.name in {each.get("corpus") for each in chosen}


app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def main(
    model: Annotated[Path, typer.Argument(help="Pretrained model folder.")],
    name: Annotated[str, typer.Option(help="Name of the model.")],
    version: Annotated[str, typer.Option(help="Version of the weights.")],
    data: Annotated[Path, typer.Option(help="Markdown: corpora with licences and attributions.")],
    results: Annotated[list[Path], typer.Option(help="Results of these weights; may be repeated.")] = [],  # noqa: B006 -- typer copies it
    limits: Annotated[Path | None, typer.Option(help="Markdown: further limits.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder [default: speechssl/assets/bundled].")] = None,
) -> None:
    """Make the bundled model of a pretrained one."""
    try:
        made = bundle(
            model,
            out or SHIPPED,
            name=name,
            version=version,
            data=data.read_text(encoding="utf-8"),
            results=results,
            limits=limits.read_text(encoding="utf-8") if limits else "",
        )
    except (UserError, OSError) as error:
        say(f"bundle: {error}")
        raise typer.Exit(2) from None
    say(f"{made.folder}: {made.name}, hash {made.digest}, {made.size / 1e6:.1f} MB, cosine {made.cosine:.6f}")


if __name__ == "__main__":
    app()
