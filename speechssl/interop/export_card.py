"""Model card of an exported model: ``README.md`` with its facts and how to load it."""

import json
from collections.abc import Mapping

from speechssl.audio import SAMPLE_RATE
from speechssl.interop.stored import Kind, StoredModel
from speechssl.models.classifier import Classifier
from speechssl.models.ctc import CTCModel
from speechssl.models.storage import EMBEDDING

_TASKS: dict[Kind, str] = {
    "encoder": "feature-extraction",
    "pretraining": "feature-extraction",
    "ctc": "automatic-speech-recognition",
    "classifier": "audio-classification",
}
_TITLES: dict[Kind, str] = {
    "encoder": "Speech encoder",
    "pretraining": "Speech encoder with its pretraining objective",
    "ctc": "Speech recogniser",
    "classifier": "Speech classifier",
}
_AUTO: dict[Kind, str] = {
    "encoder": "AutoModel",
    "pretraining": "AutoModelForPreTraining",
    "ctc": "AutoModelForCTC",
    "classifier": "AutoModelForAudioClassification",
}
_PROVENANCE = ("hours", "steps", "seconds_seen", "synthetic")


def card(model: StoredModel, *, facts: Mapping[str, str], model_class: str) -> str:
    """The text of ``README.md``.

    Args:
        model: the exported model.
        facts: further facts, as text.
        model_class: class of transformers.
    """
    head = ["---", "library_name: transformers", f"pipeline_tag: {_TASKS[model.kind]}", "tags:", "- audio", "- speech"]
    rows = {**_facts(model), "class in transformers": f"`{model_class}`", **facts}
    table = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
    parts = ["\n".join([*head, "- speechssl", "---"]), f"# {_TITLES[model.kind]}", "\n".join(table)]
    parts += ["```python", *_usage(model.kind), "```"]
    text = "\n\n".join(parts[:3]) + "\n\n" + "\n".join(parts[3:]) + "\n"
    return text + "".join(f"\n{note}\n" for note in notes(model))


def notes(model: StoredModel) -> list[str]:
    """Notes for users of the model in other programs, of one or two sentences each."""
    found: list[str] = []
    if model.encoder.config.conv.norm == "group":
        found.append(
            "Padding changes the output of this model (group norm over time): run recordings one by one, or in batches "
            "of equal length."
        )
    if model.kind == "ctc":
        found.append(
            "Where two word boundaries follow one another, transformers writes two spaces and speechssl one: "
            '`" ".join(text.split())` removes the difference.'
        )
    return found


def _facts(model: StoredModel) -> dict[str, str]:
    encoder = model.encoder.config
    parameters = sum(each.numel() for each in (model.head or model.encoder).parameters())
    facts = {
        "input": f"mono, {SAMPLE_RATE} Hz, " + ("zero mean and unit variance" if encoder.normalize else "in [-1, 1]"),
        "frames": f"{encoder.dim} numbers every {1000 * encoder.conv.hop / SAMPLE_RATE:g} ms",
        "layers": str(encoder.transformer.layers),
        "parameters": f"{parameters / 1e6:.1f} M",
    }
    if isinstance(model.head, CTCModel):
        facts["symbols"] = f"`{''.join(model.head.vocabulary.symbols[2:])}` and the space"
    if isinstance(model.head, Classifier):
        facts["classes"] = ", ".join(model.head.classes)
    if model.kind in ("encoder", "pretraining"):
        table = {"layer": -1, "pooling": "mean", **model.config.get(EMBEDDING, {})}
        facts["embedding"] = f"layer {table['layer']}, pooling {table['pooling']}, in speechssl where none is named"
    provenance = model.config.get("provenance", {})
    known = {name: provenance[name] for name in _PROVENANCE if provenance.get(name) is not None}
    training = model.config.get("training", {})
    known |= {name: training[name] for name in ("minutes", "utterances") if name in training}
    return facts | {name.replace("_", " "): json.dumps(value) for name, value in known.items()}


def _usage(kind: Kind) -> list[str]:
    if kind in ("ctc", "classifier"):
        task = _TASKS[kind]
        return [
            "import transformers",
            "",
            f'say = transformers.pipeline("{task}", model="path/to/this/folder")',
            'say("recording.wav")',
        ]
    return [
        f"from transformers import AutoFeatureExtractor, {_AUTO[kind]}",
        "",
        'prepare = AutoFeatureExtractor.from_pretrained("path/to/this/folder")',
        f'model = {_AUTO[kind]}.from_pretrained("path/to/this/folder").eval()',
        f'model(**prepare(waveform, sampling_rate={SAMPLE_RATE}, return_tensors="pt"), output_hidden_states=True)',
    ]
