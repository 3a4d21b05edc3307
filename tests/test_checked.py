"""What the suite checks at run time: types and shapes of arguments and of results, all through the package."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import beartype
import jaxtyping
import numpy as np
import pytest
import torch
from jaxtyping import Float, TypeCheckError
from torch import Tensor

from speechssl.audio import normalize
from speechssl.nn.norm import LayerNorm
from tests import checked

check = checked.jaxtyped(typechecker=beartype.beartype)


@check
def product(left: Float[Tensor, "rows inner"], right: Float[Tensor, "inner columns"]) -> Float[Tensor, "rows columns"]:
    """The right shape, but for matrices of ones, which come back turned."""
    out = left @ right
    return out.T if bool((left == 1).all()) else out


@check
def half(number: int, then: Callable[[int], object] = print) -> int:
    """No whole number for odd ones."""
    return number // 2 if number % 2 == 0 else number / 2  # type: ignore[return-value]


@check
def stacked(rows: list[Float[Tensor, " dim"]]) -> Float[Tensor, "rows dim"]:
    return product(torch.stack(rows), torch.zeros(len(rows[0]), 7))[:, : len(rows[0])]


@check
def counted(until: int) -> Iterator[int]:
    yield from range(until)


@check
@dataclass
class Boxed:
    value: int


@check
def named(value: "Boxed") -> "Boxed | None":
    return value


@check
class Holder:
    @property
    @check
    def name(self) -> str:
        return 5  # type: ignore[return-value]

    @classmethod
    @check
    def made(cls, value: int) -> int:
        return value


def test_what_fits_is_passed_on() -> None:
    assert product(torch.zeros(2, 3), torch.zeros(3, 4)).shape == (2, 4)
    assert product(torch.zeros(5, 3), torch.zeros(3, 1)).shape == (5, 1)  # each call has axes of its own
    assert stacked([torch.zeros(3), torch.zeros(3)]).shape == (2, 3)  # and so have calls within calls
    assert half(4) == 2
    assert list(counted(3)) == [0, 1, 2]
    assert named(Boxed(1)) == Boxed(1)
    assert Holder.made(3) == 3


@pytest.mark.parametrize(
    "call",
    [
        lambda: product(torch.zeros(2, 3), torch.zeros(4, 4)),  # axes of two arguments
        lambda: product(torch.ones(2, 3), torch.zeros(3, 4)),  # axes of an argument and of the result
        lambda: product(torch.zeros(2, 3), torch.zeros(3, 4, dtype=torch.int64)),
        lambda: product(torch.zeros(2, 3), right=None),  # type: ignore[arg-type]
        lambda: half("4"),  # type: ignore[arg-type]
        lambda: half(4, then=5),  # type: ignore[arg-type]
        lambda: half(3),
        lambda: counted("3"),  # type: ignore[arg-type]
        lambda: named(3),  # type: ignore[arg-type]
        lambda: Boxed("1"),  # type: ignore[arg-type]
        lambda: Holder().name,
        lambda: Holder.made("3"),  # type: ignore[arg-type]
    ],
)
def test_what_does_not_fit_is_an_error(call: Callable[[], object]) -> None:
    with pytest.raises(TypeCheckError):
        call()


def test_the_package_is_checked() -> None:
    with pytest.raises(TypeCheckError):
        normalize(np.zeros((2, 8), dtype=np.float32))
    with pytest.raises(TypeCheckError):
        LayerNorm(4)(torch.zeros(2, 4, dtype=torch.int64))
    with pytest.raises(TypeCheckError):
        LayerNorm(4).forward("no tensor")  # type: ignore[arg-type]


def test_nothing_is_checked_where_that_is_switched_off() -> None:
    jaxtyping.config.update("jaxtyping_disable", True)  # noqa: FBT003 -- jaxtyping's own signature
    try:
        assert half(3) == 1.5
        assert product(torch.ones(2, 3), torch.zeros(3, 4)).shape == (4, 2)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)  # noqa: FBT003
