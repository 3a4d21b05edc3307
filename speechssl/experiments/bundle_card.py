"""Card of the bundled model: `README.md` with what it is, its data, its numbers and its limits."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from speechssl.audio import SAMPLE_RATE
from speechssl.metrics.results import MODEL, ResultRow, plain
from speechssl.models.encoder import SpeechEncoder
from speechssl.models.storage import EMBEDDING
from speechssl.report.markdown import markdown_tables

_LIMITS = """\
- A small encoder, trained for a few hours on few hours of speech: a public model of BASE size is better on most tasks
  and many times slower. `speechssl extract MODEL SOURCE` takes one.
- It is trained on the languages and recording conditions named under Data. How well it serves others is not known:
  `speechssl evaluate bundled CORPUS_DIR` measures it on labelled recordings of yours, beside MFCC and log-mel.
- Embeddings hold who speaks, and how, besides what is said. They are personal data where the recordings are.
- It is not made to identify persons, nor to judge their health, emotions or character for decisions about them.
"""


@dataclass(frozen=True)
class Facts:
    """The name of a model, its hash, and the rows of the table at the head of its card."""

    name: str
    digest: str
    rows: Mapping[str, str]

    @classmethod
    def of(cls, config: Mapping[str, Any], *, encoder: SpeechEncoder, name: str, digest: str, cosine: float) -> "Facts":
        """Facts of a model folder's config and encoder; `cosine` is that of its embeddings with the float32 weights."""
        own, known = encoder.config, dict(config["provenance"])
        parameters = sum(each.numel() for each in encoder.parameters())
        rows = {
            "input": f"mono, {SAMPLE_RATE} Hz",
            "frames": f"{own.dim} numbers every {1000 * own.conv.hop / SAMPLE_RATE:g} ms",
            "layers": str(own.transformer.layers),
            "parameters": f"{parameters / 1e6:.2f} M",
            "weights": f"float16, loaded as float32 (cosine of embeddings with the trained weights {cosine:.5f})",
            "objective": str(known.get("objective") or "unknown"),
            "updates": _figure(known, "steps", "{:,.0f}"),
            "audio seen": _figure(known, "seconds_seen", "{:,.0f} h", unit=3600.0),
            "recordings": _figure(known, "hours", "{:,.1f} h"),
            "corpora": ", ".join(known.get("corpora", [])) or "unknown",
            "where none is named": _embedding(config.get(EMBEDDING)),
            "hash": f"`{digest}`",
        }
        return cls(name, digest, rows)


def card(facts: Facts, *, data: str, results: Mapping[str, Sequence[ResultRow]], limits: str = "") -> str:
    """The text of the card.

    Args:
        facts: of the model.
        data: Markdown: corpora with licences and attributions.
        results: rows by name of their file; each gets a table.
        limits: further limits, as Markdown.
    """
    table = "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts.rows.items())])
    parts = [
        f"# {facts.name}",
        "Encoder of speech that comes with speechssl: commands and functions use it where no model is named. It was "
        "pretrained without labels.",
        table,
        "## Use",
        "```sh\nspeechssl extract ~/recordings -o vectors.parquet\n```",
        '```python\nimport speechssl\n\nvector = speechssl.load().embed("recording.wav")\n```',
        "## Data",
        data.strip(),
        "## Numbers",
        *_numbers(results),
        "## Limits",
        _LIMITS + limits.strip(),
        "## Licence",
        "The weights have the licence of speechssl (Apache-2.0). The recordings have their own, named above.",
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _numbers(results: Mapping[str, Sequence[ResultRow]]) -> list[str]:
    if not results:
        return ["None were measured for this card."]
    parts = ["Frozen encoder, few labels, speakers of the test side unseen; brackets are 95 % intervals by speaker."]
    for name, rows in results.items():
        heard = sorted({row.pretraining_audio for row in rows if row.family == MODEL and row.pretraining_audio})
        parts += [
            f"### {name}",
            markdown_tables(rows),
            f"In the audio of pretraining: {'; '.join(heard) or 'unknown'}.",
        ]
    return parts


def _figure(known: Mapping[str, Any], key: str, form: str, *, unit: float = 1.0) -> str:
    return form.format(known[key] / unit) if known.get(key) is not None else "unknown"


def _embedding(table: Mapping[str, Any] | None) -> str:
    if table is None:
        return "layer -1, pooling mean"
    chosen = table.get("chosen_on") or {}
    where = ", ".join(f"{each['corpus']} (UAR {plain(each['uar'])})" for each in chosen.get("corpora", []))
    how = f"; chosen on {where}, {chosen['shots']} shots of {chosen['task']}" if where else ""
    return f"layer {json.dumps(table['layer']).strip(chr(34))}, pooling {table['pooling']}{how}"
