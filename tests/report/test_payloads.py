"""No string of a run folder becomes an element, an attribute, a link or a formula; files that do not fit are named."""

import copy
import itertools
import json
import math
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt

from speechssl.config import UserError
from speechssl.objectives.wav2vec2 import CURVES, PRESETS
from speechssl.report.html import _page, write_report
from speechssl.report.markdown import write_markdown
from speechssl.report.markup import Element, render
from speechssl.report.run import read_run
from speechssl.terminal import printable
from speechssl.train.metrics_file import metrics

from .conftest import RECIPE, config, log_rows, result_rows
from .test_few_labels import CONFUSION
from .test_few_labels import rows_of as few_rows
from .test_recognition import rows_of as recognition_rows
from .test_recognition import worst_of

PIECES = [
    "<img src=x onerror=alert(1)>",
    "\"'><script>alert(1)</script><svg onload=alert(1)> --> ]]> `x` ${y} {z} %s",
    "$\\frac{a}$ $ $$ _x_ **y** | z ![i](http://a.b/c) [l](javascript:alert(1)) www.a.b",
    "a\nb\r\tc\x00\x1b[2J\x9b\u2028\u202e\u2066 é 中 \U0001f600 &lt;b&gt; &amp;",
    "_",
]
PAYLOADS = ["_$\\frac$" + "".join(PIECES), "ab " * 3334]  # the first with all at once; labels of pictures show its ends
FIXED = ("task", "metric", "unit", "chance")  # they decide which parts the page has
WORDS_OF_THE_PACKAGE = ("chance", "none")

PATHS, SENTENCES = ("corpus", "corpora", "audio"), ("said", "written")

Strings = Callable[[str, str], str]


def files_of_a_run() -> dict[str, Any]:
    """Every file that a report reads, with probes, few labels and speech recognition in one folder."""
    rows = [row for row in result_rows() if row.labels == 5 and row.task == "label" and row.metric == "UAR"]
    rows += few_rows(levels=(5, 0), metrics=("UAR", "WA"))
    return {
        "config.json": config(),
        "results.json": [asdict(row) for row in (*rows, *recognition_rows())],
        "confusion.json": CONFUSION,
        "worst.json": worst_of("/a/b.wav"),
        "map.npz": {
            "points": np.random.default_rng(0).normal(size=(12, 2)),
            "label": ["sad", "glad", "calm"] * 4,
            "speaker": ["one", "two"] * 6,
            "method": ["PCA"],
        },
        "log.jsonl": log_rows(200),
        "metrics.json": json.loads(json.dumps(metrics(CURVES, PRESETS["tiny"]))),
    }


def write(folder: Path, files: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    (folder / "recipe.toml").write_text(RECIPE)
    for name, content in files.items():
        if name == "map.npz":
            np.savez(folder / name, **{key: np.array(value) for key, value in content.items()})
        elif name == "log.jsonl":
            (folder / name).write_text("".join(json.dumps(row) + "\n" for row in content))
        else:
            (folder / name).write_text(json.dumps(content))
    return folder


def replaced(content: Any, change: Strings, *, key: str = "") -> Any:
    """The same with other strings; names of contenders as keys of `gains` are strings too."""
    if isinstance(content, str):
        return change(key, content)
    if isinstance(content, list):
        return [replaced(each, change, key=key) for each in content]
    if isinstance(content, dict):
        return {
            change("contender", name) if key == "gains" else name: replaced(each, change, key=name)
            for name, each in content.items()
        }
    return content


class Shape(HTMLParser):
    """The elements of a page with the names of their attributes; its text and attributes outside of pictures."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.page: list[tuple[str, ...]] = []
        self.pictures: set[tuple[str, ...]] = set()
        self.words: list[str] = []
        self.attributes: set[str] = set()
        self.other: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        shape = (tag, *(name for name, _ in attrs))
        if "svg" in self.open:
            self.pictures.add(shape)
        else:
            self.page.append(shape)
        self.attributes |= {value for _, value in attrs if value}
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "svg" not in self.open and self.open and self.open[-1] != "style":
            self.words.append(data)

    def handle_comment(self, data: str) -> None:
        self.other.append(data)

    def handle_pi(self, data: str) -> None:
        self.other.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)


def page(folder: Path) -> tuple[Shape, str]:
    write_report(folder, folder / "page.html")
    source = (folder / "page.html").read_text(encoding="utf-8")
    return Shape(source), source


def named(payload: str, keep: tuple[str, ...]) -> tuple[Strings, dict[tuple[str, str], str]]:
    """A change that gives every string a number, with the payload before it; and what it made of what."""
    made: dict[tuple[str, str], str] = {}
    numbers: dict[str, int] = {}

    def change(key: str, text: str) -> str:
        if key in keep or text in WORDS_OF_THE_PACKAGE:
            return text
        words = payload
        if key in PATHS:
            words = words.replace("/", "")  # of a path the name alone is shown
        if key in SENTENCES:
            words = "".join(words.split())  # each word has a place of its own
        number = numbers.setdefault(text, len(numbers))
        return made.setdefault((words, text), f"{words}n{number}n")

    return change, made


@pytest.fixture(scope="module")
def harmless(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], Shape]:
    """The pages of the same runs with harmless strings."""
    pages: dict[tuple[str, ...], Shape] = {}
    for keep in (FIXED, ()):
        change, _ = named("", keep)
        folder = tmp_path_factory.mktemp("harmless") / "run"
        pages[keep] = page(write(folder, replaced(files_of_a_run(), change)))[0]
    return pages


@pytest.mark.slow
@pytest.mark.parametrize(
    ("payload", "keep"),
    [
        (PAYLOADS[0], FIXED),
        (PAYLOADS[0], ()),
        (PAYLOADS[1], FIXED),
        *(pytest.param(piece, keep, marks=pytest.mark.slow) for piece in PIECES for keep in (FIXED, ())),
    ],
)
def test_no_string_gets_into_the_page_as_anything_but_text(
    payload: str, keep: tuple[str, ...], tmp_path: Path, harmless: dict[tuple[str, ...], Shape]
) -> None:
    change, made = named(payload, keep)
    name = payload.replace("/", "").replace("\0", "")[:200] or "run"
    shape, source = page(write(tmp_path / name, replaced(files_of_a_run(), change)))
    expected = harmless[keep]
    assert shape.page == expected.page
    assert shape.pictures <= expected.pictures
    assert shape.other == []
    numbers = {re.search(r"n\d+n$", text)[0] for text in made.values()}
    shown = {re.search(r"n\d+n$", text)[0] for text in made.values() if printable(text) in shape.text}
    assert shown == {number for number in numbers if number in expected.text}
    assert f"Run {printable(name)}" in shape.text
    assert all(character in "\n" or character.isprintable() for character in source)
    assert not any(raw in source for raw in ("<img", "<script", "onload=alert(1)>", "--> ]]>"))
    assert not any(value.startswith("javascript:") for value in shape.attributes)


def test_the_payloads_are_where_they_would_do_harm(harmless: dict[tuple[str, ...], Shape]) -> None:
    """Most strings are shown: the test above would notice."""
    change, made = named("", FIXED)
    replaced(files_of_a_run(), change)
    page = "\n".join([harmless[FIXED].text, *harmless[FIXED].attributes])
    shown = [text for text in made.values() if text in page]
    assert len(shown) > 0.8 * len(made)


@pytest.mark.parametrize("payload", [*PAYLOADS, *PIECES])
def test_markdown_shows_every_string_and_obeys_none(payload: str, tmp_path: Path) -> None:
    change, made = named(payload, ("task", "metric"))
    folder = write(tmp_path / "run", {"results.json": replaced(files_of_a_run()["results.json"], change)})
    write_markdown(folder, folder / "table.md")
    source = (folder / "table.md").read_text(encoding="utf-8")
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(source)
    inner = [child for token in tokens if token.type == "inline" for child in token.children or []]
    assert {token.type for token in inner} <= {"text", "strong_open", "strong_close", "text_special"}
    assert {token.type.removesuffix("_open").removesuffix("_close") for token in tokens} <= {
        "table", "thead", "tbody", "tr", "th", "td", "inline",
    }  # fmt: skip
    shown = {"".join(child.content for child in token.children or []) for token in tokens if token.type == "inline"}
    contenders = {row["contender"] for row in files_of_a_run()["results.json"]} - set(WORDS_OF_THE_PACKAGE)
    cells = {cell.strip() for cell in shown}
    assert {printable(made[payload, name]).strip() for name in contenders} <= cells
    assert "<" not in source
    assert not re.search(r"https?://|(?<!\\)\$", source)


def refusal(call: Callable[[], object]) -> str | None:
    """What a `UserError` says, or None when there is none."""
    try:
        call()
    except UserError as error:
        return str(error)
    return None


OTHER_VALUES = (None, "5", "", [], {}, [[]], True, -1, 1.5, 1e300, 10**30, math.nan, math.inf)


def leaves(content: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of every value in a file; of lists only the first and the last."""
    if place:
        yield place
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, each in pairs:
        if isinstance(content, dict) or key in (0, len(content) - 1):
            yield from leaves(each, (*place, key))


def with_other(content: Any, place: tuple[Any, ...], value: Any) -> Any:
    changed = copy.deepcopy(content)
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    if value == "missing":
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return changed


@pytest.mark.parametrize("share", [0.1, pytest.param(1.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name", ["config.json", "results.json", "confusion.json", "worst.json", "log.jsonl", "metrics.json"]
)
def test_a_value_of_another_kind_is_taken_or_named(
    name: str, share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("speechssl.report.html.learning_figures", lambda _: [(Element("svg"), "")])
    for picture in ("shots_curves", "embedding_map"):
        monkeypatch.setattr(f"speechssl.report.plots.{picture}", lambda *_, **__: Element("svg"))
    monkeypatch.setattr("speechssl.report.few_labels.efficiency_curves", lambda *_: Element("svg"))
    files = files_of_a_run()
    files["log.jsonl"] = log_rows(10)
    files["results.json"] = [files["results.json"][place] for place in (0, 5, 20, -1)]
    folder = write(tmp_path / "run", files)
    changes = list(itertools.product(leaves(files[name]), (*OTHER_VALUES, "missing")))
    refused = 0
    for place, value in random.Random(0).sample(changes, round(share * len(changes))):
        content = with_other(files[name], place, value)
        lines = name == "log.jsonl"
        text = "\n".join(map(json.dumps, content)) + "\n" if lines else json.dumps(content)
        (folder / name).write_text(text)
        words = refusal(lambda: render(_page(read_run(folder))))
        refused += words is not None
        assert words is None or (words.startswith(str(folder / name)) and len(words) < 400), (place, value)
        assert "\n" not in (words or "")
    assert refused > 0.3 * share * len(changes)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "5", '"text"', "[[]]", "[5]", '{"a": 1}', "\ud800", "nul\0"])
@pytest.mark.parametrize(
    "name", ["config.json", "results.json", "confusion.json", "worst.json", "metrics.json", "recipe.toml", "map.npz"]
)
def test_a_file_of_another_kind_is_taken_or_named(name: str, text: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "run", {"log.jsonl": [{"step": 1}]})
    (folder / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    words = refusal(lambda: read_run(folder))
    if words is None:
        assert text == '{"a": 1}' or (name == "recipe.toml" and text in ("", "[5]"))
    else:
        assert words.startswith(str(folder / name))
        assert "\n" not in words
