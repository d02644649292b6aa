"""What a network is for one modality, in the names of the stock network it was planned as."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

__all__ = ["stock_state"]


def stock_state(module: nn.Module, index: int) -> dict[str, Tensor]:
    """The state dict of a module for one modality: what depends on the modality is folded away.

    A module that depends on it says what is left of it by a method ``for_modality(index) -> dict[str, Tensor]``, whose
    names are those of the stock module in its place; every other module is the sum of its parts. A method that starts
    from its own parts calls :func:`stock_state_of_parts`.

    Args:
        module: any module; one that is registered under several names appears under all of them.
        index: position of the modality.

    Returns:
        name → tensor, not a copy where nothing was folded.

    Raises:
        UnsupportedError: a part of the module is more than a stock network for one modality, too.
    """
    own: Callable[[int], dict[str, Tensor]] | None = getattr(module, "for_modality", None)
    if own is not None:
        return own(index)
    return stock_state_of_parts(module, index)


def stock_state_of_parts(module: nn.Module, index: int) -> dict[str, Tensor]:
    """As :func:`stock_state`, without asking the module itself."""
    state = {name: value for name, value in module.state_dict().items() if "." not in name}
    # not named_children(), which tells a module that is registered twice once
    for name, child in module._modules.items():
        if child is not None:
            state.update({f"{name}.{inner}": value for inner, value in stock_state(child, index).items()})
    return state
