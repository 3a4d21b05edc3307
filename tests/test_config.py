"""Recipes: merging, overrides, round trip, and what is said about a mistake."""

import math
from pathlib import Path
from typing import Literal

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechssl.config import Config, UserError, dump_config, load_config


class Optim(Config):
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.98)
    name: Literal["adamw", "sgd"] = "adamw"


class Conv(Config):
    channels: int = 512
    width: int = 3


class Recipe(Config):
    steps: int = pydantic.Field(default=100, gt=0)
    compiled: bool = False
    note: str = ""
    label: str | None = None
    init: Path | None = None
    optim: Optim = Optim()
    layers: tuple[Conv, ...] = ()
    weights: dict[str, float] = pydantic.Field(default_factory=dict)
    either: int | str = 3


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def message(*overrides: str, path: Path | None = None) -> str:
    with pytest.raises(UserError) as caught:
        load_config(Recipe, path, overrides=overrides)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_defaults_without_a_file() -> None:
    assert load_config(Recipe) == Recipe()


def test_file_over_base_over_defaults(tmp_path: Path) -> None:
    write(tmp_path, "base.toml", 'steps = 7\nnote = "base"\n[optim]\nlr = 0.5\nname = "sgd"\n')
    path = write(tmp_path, "recipe.toml", 'base = "base.toml"\nsteps = 9\n[optim]\nlr = 0.25\n')
    loaded = load_config(Recipe, path, overrides=["optim.lr=0.125"])
    assert loaded == Recipe(steps=9, note="base", optim=Optim(lr=0.125, name="sgd"))


def test_later_override_wins() -> None:
    assert load_config(Recipe, overrides=["steps=2", "steps=3"]).steps == 3


def test_lists_are_replaced_and_hold_models(tmp_path: Path) -> None:
    path = write(tmp_path, "recipe.toml", "[[layers]]\nchannels = 8\n[[layers]]\nwidth = 5\n")
    assert load_config(Recipe, path).layers == (Conv(channels=8), Conv(width=5))
    assert load_config(Recipe, path, overrides=["layers=[{width = 2}]"]).layers == (Conv(width=2),)


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("steps=12", "steps", 12),
        ("compiled=true", "compiled", True),
        ("note=two words = fine", "note", "two words = fine"),
        ("note=3", "note", "3"),
        ("note='3'", "note", "3"),
        ("note=", "note", ""),
        ("label=anger", "label", "anger"),
        ("init=runs/demo/pretrain", "init", Path("runs/demo/pretrain")),
        ("optim.lr=1", "optim", Optim(lr=1.0)),
        ("optim.lr=inf", "optim", Optim(lr=math.inf)),
        ("optim.betas=[0.5, 0.6]", "optim", Optim(betas=(0.5, 0.6))),
        ("optim.name=sgd", "optim", Optim(name="sgd")),
        ("weights.extra=0.5", "weights", {"extra": 0.5}),
        ("either=4", "either", 4),
        ("either=four", "either", "four"),
        (" steps = 4 ", "steps", 4),
    ],
)
def test_override_values(override: str, key: str, value: object) -> None:
    found = getattr(load_config(Recipe, overrides=[override]), key)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        (
            "stpes=3",
            ["--set stpes=3", "unknown key 'stpes'", "did you mean 'steps'?", "allowed: compiled, either, init"],
        ),
        ("optim.betta=3", ["unknown key 'optim.betta'", "did you mean 'betas'?", "allowed: betas, lr, name"]),
        ("nothing.like.it=3", ["unknown key 'nothing'", "allowed: compiled"]),
        ("steps=many", ["--set steps=many", "key 'steps': given 'many', allowed: integer"]),
        ("steps=true", ["key 'steps': given True, allowed: integer"]),
        ("steps=1.5", ["key 'steps': given 1.5, allowed: integer"]),
        ("steps='3'", ["key 'steps': given '3', allowed: integer"]),
        ("steps=0", ["key 'steps': given 0, allowed: greater than 0"]),
        ("compiled=True", ["key 'compiled': given 'True', allowed: boolean"]),
        ("optim.lr=true", ["key 'optim.lr': given True, allowed: number"]),
        ("optim.name=adam", ["key 'optim.name': given 'adam', allowed: 'adamw' or 'sgd'"]),
        ("optim=3", ["--set optim=3", "key 'optim': given 3"]),
        ("optim.lr.deep=3", ["key 'optim.lr': given {'deep': 3}"]),
        ("layers=[{with=3}]", ["unknown key 'layers.0.with'", "did you mean 'width'?", "allowed: channels, width"]),
        ("optim.betas=[1.0", ["the value is not TOML"]),
        ("note='open", ["the value is not TOML"]),
        ("steps=1\ncompiled=true", ["one value only"]),
        ("steps", ["write it as key=value"]),
        ("=3", ["write it as key=value"]),
        ("optim..lr=3", ["write it as key=value"]),
        ("optim.betas=[0.5]", ["key 'optim.betas"]),
    ],
)
def test_wrong_override_says_what_is_allowed(override: str, parts: list[str]) -> None:
    said = message(override)
    assert said.startswith("--set")
    for part in parts:
        assert part in said


def test_override_inside_a_value() -> None:
    assert "holds a value, not a group" in message("steps=3", "steps.more=4")


def test_several_mistakes_are_counted() -> None:
    assert message("steps=x", "compiled=x").endswith("(and 1 more)")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("steps = \n", "not TOML"),
        ("steps = 'x'\n", "key 'steps': given 'x', allowed: integer"),
        ("[optim]\nrate = 1\n", "unknown key 'optim.rate'"),
        ("base = 3\n", "key 'base': given 3"),
        ("base = 'none.toml'\n", "none.toml: no such recipe file"),
        ("steps = 2020-01-01\n", "dates and times"),
    ],
)
def test_wrong_file_is_named(tmp_path: Path, text: str, part: str) -> None:
    path = write(tmp_path, "recipe.toml", text)
    said = message(path=path)
    assert part in said
    assert str(tmp_path) in said


def test_base_of_a_base_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.toml", "")
    write(tmp_path, "b.toml", 'base = "a.toml"\n')
    path = write(tmp_path, "c.toml", 'base = "b.toml"\n')
    assert "at most one" in message(path=path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert message(path=tmp_path / "no.toml").endswith("no.toml: no such recipe file")
    assert str(tmp_path) in message(path=tmp_path)


def test_missing_key() -> None:
    class Needs(Config):
        name: str

    with pytest.raises(UserError, match="key 'name' is missing"):
        load_config(Needs)


def test_a_models_own_check_keeps_its_words() -> None:
    class Even(Config):
        steps: int = 2

        @pydantic.field_validator("steps")
        @classmethod
        def _even(cls, steps: int) -> int:
            if steps % 2:
                raise ValueError("even numbers")
            return steps

    with pytest.raises(UserError, match="key 'steps': given 3, allowed: even numbers"):
        load_config(Even, overrides=["steps=3"])


def test_models_are_frozen() -> None:
    with pytest.raises(pydantic.ValidationError):
        Recipe().steps = 3  # pyright: ignore[reportAttributeAccessIssue]


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
recipes = st.builds(
    Recipe,
    steps=st.integers(1, 2**40),
    compiled=st.booleans(),
    note=texts,
    label=st.none() | texts,
    init=st.none() | st.just(Path("a/b c")),
    optim=st.builds(
        Optim,
        lr=st.floats(allow_nan=False),
        betas=st.tuples(st.floats(0, 1), st.floats(0, 1)),
        name=st.sampled_from(["adamw", "sgd"]),
    ),
    layers=st.lists(st.builds(Conv, channels=st.integers(0, 9)), max_size=2).map(tuple),
    weights=st.dictionaries(texts, st.floats(allow_nan=False), max_size=3),
    either=st.integers(-5, 5) | texts,
)


@given(recipes)
def test_dump_and_load_are_inverse(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe) -> None:
    path = write(tmp_path_factory.getbasetemp(), "round.toml", dump_config(recipe))
    assert load_config(Recipe, path) == recipe


@given(recipes)
def test_defaults_come_through_unchanged(recipe: Recipe) -> None:
    assert load_config(Recipe, defaults=recipe) == recipe


def test_recipe_over_given_defaults(tmp_path: Path) -> None:
    preset = Recipe(steps=5, note="preset", label="a", optim=Optim(lr=0.5, name="sgd"), layers=(Conv(), Conv()))
    path = write(tmp_path, "recipe.toml", 'note = "recipe"\n[optim]\nlr = 0.25\n')
    loaded = load_config(Recipe, path, overrides=["steps=6"], defaults=preset)
    assert loaded == preset.model_copy(update={"steps": 6, "note": "recipe", "optim": Optim(lr=0.25, name="sgd")})


def test_dump_refuses_what_toml_cannot_say() -> None:
    class Choice(Config):
        limit: int | None = 3

    with pytest.raises(ValueError, match="'limit' is None"):
        dump_config(Choice(limit=None))
