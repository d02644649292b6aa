"""Hyper-parameters: annotated class attributes of a trainer, overridden by the ``"crossmod"`` entry of the plans."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from nnunet_crossmod.errors import CrossmodError

__all__ = ["resolve", "types_of"]


def types_of(trainer: type) -> dict[str, Any]:
    """The hyper-parameters of a trainer class with their types: every annotated public attribute with a default."""
    return {
        name: hint
        for name, hint in get_type_hints(trainer).items()
        if not name.startswith("_") and get_origin(hint) is not ClassVar and hasattr(trainer, name)
    }


def resolve(trainer: type, known: Mapping[str, Any], overrides: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Defaults, with the overrides put in their place.

    Args:
        trainer: the trainer class.
        known: its :func:`types_of`.
        overrides: name → value, as read from JSON.
        where: the plans they come from, for the message.

    Raises:
        CrossmodError: a name the trainer does not have (the message lists those it has) or a value of another type.
    """
    values = {name: getattr(trainer, name) for name in known}
    for name, value in overrides.items():
        if name not in known:
            raise CrossmodError(
                f"{where} sets {name!r}, which {trainer.__name__} does not have; it has {', '.join(sorted(known))}"
            )
        values[name] = _checked(name, value, known[name], where)
    return values


def _checked(name: str, value: Any, hint: Any, where: str) -> Any:
    origin = get_origin(hint)
    if origin is Literal:
        if value in get_args(hint):
            return value
    elif origin in (Union, types.UnionType):
        for option in get_args(hint):
            try:
                return _checked(name, value, option, where)
            except CrossmodError:
                continue
    elif origin is tuple:
        if isinstance(value, list | tuple):
            return tuple(_checked(name, item, get_args(hint)[0], where) for item in value)
    elif hint is type(None):
        if value is None:
            return None
    elif hint is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    elif isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise CrossmodError(f"{where} sets {name} = {value!r}; it must be {_spelt(hint)}")


def _spelt(hint: Any) -> str:
    origin = get_origin(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, get_args(hint)))
    if origin in (Union, types.UnionType):
        return " or ".join(_spelt(option) for option in get_args(hint))
    if origin is tuple:
        return f"a list of {_spelt(get_args(hint)[0])}"
    return {type(None): "null", bool: "true or false", float: "a number", int: "an integer", str: "a string"}.get(
        hint, str(hint)
    )
