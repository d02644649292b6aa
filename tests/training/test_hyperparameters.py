"""Hyper-parameters are annotated class attributes; plans override them, and nothing slips through."""

from __future__ import annotations

from typing import ClassVar, Literal

import pytest

from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.training.hyperparameters import resolve, types_of


class Base:
    rate: float = 0.1
    steps: int = 3
    kept: ClassVar[int] = 7
    _hidden: int = 1


class Method(Base):
    rate = 0.2
    mode: Literal["all", "literal"] = "all"
    size: tuple[int, ...] | None = None
    on: bool = True


def set_to(**overrides: object) -> dict[str, object]:
    return resolve(Method, types_of(Method), overrides, "plans.json")


def test_defaults_follow_inheritance() -> None:
    assert set_to() == {"rate": 0.2, "steps": 3, "mode": "all", "size": None, "on": True}


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [("rate", 1, 1.0), ("steps", 5, 5), ("mode", "literal", "literal"), ("size", [4, 8], (4, 8)), ("size", None, None)],
)
def test_overrides(name: str, value: object, read: object) -> None:
    assert set_to(**{name: value})[name] == read
    assert type(set_to(**{name: value})[name]) is type(read)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("rate", "fast", "a number"),
        ("rate", True, "a number"),
        ("steps", 2.5, "an integer"),
        ("steps", True, "an integer"),
        ("mode", "some", "'all', 'literal'"),
        ("size", [1, "x"], "a list of an integer or null"),
        ("on", 1, "true or false"),
    ],
)
def test_wrong_types_are_told_in_one_line(name: str, value: object, says: str) -> None:
    with pytest.raises(CrossmodError, match=says) as error:
        set_to(**{name: value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["speed", "kept", "_hidden"])
def test_unknown_names_list_the_known_ones(name: str) -> None:
    with pytest.raises(CrossmodError, match="mode, on, rate, size, steps"):
        set_to(**{name: 1})
