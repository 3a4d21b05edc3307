"""The tables of an objective's page against its module."""

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pydantic

PAGES = Path(__file__).resolve().parents[2] / "docs" / "objectives"
SIZES = ("tiny", "small", "base", "large")


def flat(config: pydantic.BaseModel, prefix: str = "") -> dict[str, Any]:
    """Every setting by its name on the command line."""
    values: dict[str, Any] = {}
    for name, value in config:
        values |= flat(value, f"{name}.") if isinstance(value, pydantic.BaseModel) else {prefix + name: value}
    return values


def check_page(module: ModuleType) -> None:
    """Compare the settings by size and the symptoms that the page shows with those of the module."""
    presets = [flat(module.PRESETS[size]) for size in SIZES]
    text = (PAGES / f"{presets[0]['name']}.md").read_text(encoding="utf-8")
    cells = [[each.strip() for each in line.strip("|").split("|")] for line in text.splitlines() if line[:3] == "| `"]
    shown = {row[0].strip("`"): row[1:5] for row in cells if len(row) == 6}
    names = [name for name in presets[0] if name != "name" and not name.startswith("symptoms.")]
    assert shown == {
        name: ["none" if each[name] is None else str(each[name]).lower() for each in presets] for name in names
    }
    table = re.findall(r"^\| ([a-z ]+) \| [^|]+ \| (`\w+`(?:, `\w+`)*) \|$", text, flags=re.MULTILINE)
    assert sorted(state for state, _ in table) == sorted(module.ADVICE)
    limits = {name for _, names in table for name in re.findall(r"\w+", names)}
    assert limits == set(module.SymptomConfig.model_fields)
