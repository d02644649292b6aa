"""Hyper-parameters: annotated class attributes of a trainer, overridden by the ``"crossmod"`` entry of the plans.

Every number declares its bounds where it is declared: ``fpc_weight: Weight = 0.5``, ``warm_up: Share = 0.3``.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from nnunet_crossmod.errors import CrossmodError, did_you_mean

__all__ = [
    "Angle",
    "Bounds",
    "Count",
    "Degrees",
    "Index",
    "Momentum",
    "Positive",
    "Share",
    "Weight",
    "resolve",
    "types_of",
    "unbounded",
]


@dataclass(frozen=True)
class Bounds:
    """The values that a number may have: ``lowest`` … ``highest``, the ends excluded where ``above`` or ``below``."""

    lowest: float = -math.inf
    highest: float = math.inf
    above: bool = False
    below: bool = False

    def hold(self, value: float) -> bool:
        """Whether the value lies within the bounds; NaN never does."""
        low_enough = value > self.lowest if self.above else value >= self.lowest
        return low_enough and (value < self.highest if self.below else value <= self.highest)

    def __str__(self) -> str:
        lower = f"{'above' if self.above else 'at least'} {self.lowest:g}"
        upper = f"{'below' if self.below else 'at most'} {self.highest:g}"
        bounds = [(lower, math.isfinite(self.lowest)), (upper, math.isfinite(self.highest))]
        return " and ".join(text for text, is_bound in bounds if is_bound)


Weight = Annotated[float, Bounds(0, 1e6)]
"""Factor of a loss term."""
Share = Annotated[float, Bounds(0, 1)]
"""Share of a training, of the samples, or a probability."""
Momentum = Annotated[float, Bounds(0, 1, below=True)]
"""Weight of the old value in a moving average."""
Positive = Annotated[float, Bounds(0, 1e6, above=True)]
"""Learning rate, temperature."""
Angle = Annotated[float, Bounds(0, math.pi / 2, below=True)]
"""In radians."""
Degrees = Annotated[float, Bounds(0, 180)]
Count = Annotated[int, Bounds(1)]
Index = Annotated[int, Bounds(0)]
"""Index of a stage, a random seed."""


def types_of(trainer: type) -> dict[str, Any]:
    """The hyper-parameters of a trainer class with their types: every annotated public attribute with a default."""
    return {
        name: hint
        for name, hint in get_type_hints(trainer, include_extras=True).items()
        if not name.startswith("_") and get_origin(hint) is not ClassVar and hasattr(trainer, name)
    }


def unbounded(hints: Mapping[str, Any]) -> list[str]:
    """The hyper-parameters with a number in them whose bounds are not declared."""

    def without_bounds(hint: Any) -> bool:
        if get_origin(hint) is Annotated:
            return not any(isinstance(extra, Bounds) for extra in hint.__metadata__)
        if get_origin(hint) is Literal:
            return False
        return hint in (int, float) or any(map(without_bounds, get_args(hint)))

    return [name for name, hint in hints.items() if without_bounds(hint)]


def resolve(trainer: type, known: Mapping[str, Any], overrides: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Defaults, with the overrides put in their place.

    Args:
        trainer: the trainer class.
        known: its :func:`types_of`.
        overrides: name → value, as read from JSON.
        where: the plans they come from, for the message.

    Raises:
        CrossmodError: a name the trainer does not have (the message suggests one it has), a value of another type or
            out of bounds.
    """
    values = {name: getattr(trainer, name) for name in known}
    for name, value in overrides.items():
        if name not in known:
            raise CrossmodError(
                f"{where} sets {name!r}, which {trainer.__name__} does not have{did_you_mean(name, known)}; it has "
                f"{', '.join(sorted(known))}"
            )
        values[name] = _checked(name, value, known[name], where)
    return values


def _checked(name: str, value: Any, hint: Any, where: str) -> Any:
    origin = get_origin(hint)
    if origin is Annotated:
        number = _checked(name, value, get_args(hint)[0], where)
        for bounds in hint.__metadata__:
            if isinstance(bounds, Bounds) and not bounds.hold(number):
                raise CrossmodError(f"{where} sets {name} = {value!r}; it must be {_spelt(hint)}")
        return number
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
    if origin is Annotated:
        bounds = ", ".join(str(extra) for extra in hint.__metadata__ if isinstance(extra, Bounds))
        return " ".join(part for part in (_spelt(get_args(hint)[0]), bounds) if part)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, get_args(hint)))
    if origin in (Union, types.UnionType):
        return " or ".join(_spelt(option) for option in get_args(hint))
    if origin is tuple:
        return f"a list of {_spelt(get_args(hint)[0])}"
    return {type(None): "null", bool: "true or false", float: "a number", int: "an integer", str: "a string"}.get(
        hint, str(hint)
    )
