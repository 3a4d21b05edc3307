"""Checks every annotation of the package at run time, shapes included, at a cost that a test suite can bear.

jaxtyping's import hook puts :func:`jaxtyping.jaxtyped` on each function and class. That makes two more functions of
each, binds the arguments of each call anew and checks them twice. Here a function is checked once by beartype, and only
where its annotations name axes it gets a scope for them.
"""

import functools
import inspect
import typing
from collections.abc import Callable, Iterator
from typing import Any

import beartype
import jaxtyping

_jaxtyped = jaxtyping.jaxtyped
_beartype = beartype.beartype(conf=beartype.BeartypeConf(violation_type=jaxtyping.TypeCheckError))


def install() -> None:
    """Before the first import of the package."""
    jaxtyping.jaxtyped = jaxtyped  # what the hook writes above each function and class
    jaxtyping.install_import_hook("speechssl", "beartype.beartype")


def jaxtyped(*, typechecker: Any) -> Callable[[Any], Any]:
    """As jaxtyping's own; also for functions alone, and faster."""
    return functools.partial(_checked, typechecker=typechecker)


def _checked(fn: Any, *, typechecker: Any) -> Any:
    if not inspect.isfunction(fn) or _generates(fn):
        return _jaxtyped(fn, typechecker=typechecker)
    parts = [part for hint in fn.__annotations__.values() for part in _parts(hint)]
    if any(isinstance(part, str | typing.ForwardRef) for part in parts):  # jaxtyping knows what may be left out
        return _jaxtyped(fn, typechecker=typechecker)
    if not parts:
        return fn
    checked: Callable[..., Any] = _beartype(fn)
    if any(inspect.isclass(part) and issubclass(part, jaxtyping.AbstractArray) for part in parts):
        checked = _in_scope(checked)

    @functools.wraps(fn)
    def unless_disabled(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        return (fn if jaxtyping.config.jaxtyping_disable else checked)(*args, **kwargs)

    return unless_disabled


def _in_scope(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The sizes of axes hold for one call, from its arguments to what it returns."""

    def scoped(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        with _jaxtyped("context"):
            return fn(*args, **kwargs)

    return scoped


def _generates(fn: Any) -> bool:
    """Whether a call returns something else than what the function's body returns."""
    return inspect.isgeneratorfunction(fn) or inspect.iscoroutinefunction(fn) or inspect.isasyncgenfunction(fn)


def _parts(hint: Any) -> Iterator[Any]:
    """A hint and all that stands in its brackets."""
    yield hint
    for part in hint if isinstance(hint, list) else typing.get_args(hint):  # a list: the arguments of a Callable
        yield from _parts(part)
