"""A training that goes on (``--c``): its weights and moments from the checkpoint, everything else from the plans."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnunet_crossmod import trained_on
from nnunet_crossmod.errors import CrossmodError

__all__ = ["check_resumed", "keep_record", "resuming"]

ANNOTATIONS = ("block", "splits", "labels")


@contextmanager
def resuming(trainer: Any, filename: str, saved: Mapping[str, Any]) -> Iterator[None]:
    """Around the loading of a checkpoint: rates, decay and betas stay those of the plans, for every player.

    Args:
        trainer: that loads it.
        filename: of the checkpoint.
        saved: what this package added to it.

    Raises:
        CrossmodError: the plans make other networks, players or optimisers than the checkpoint is of; the message
            names the hyper-parameters that changed.
    """
    if not trainer.was_initialized:
        trainer.initialize()
    arguments = trainer.my_init_kwargs
    optimizers = {player.name: player.optimizer for player in trainer.players}
    planned = {
        name: [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
        for name, optimizer in optimizers.items()
    }
    opponents = {player.name for player in trainer.players if player.optimizer is not trainer.optimizer}
    reason = ""
    if opponents != set(saved["players"]):
        reason = "other players"
    elif ("teacher" in saved) != (trainer.teaching is not None):
        reason = "with a teacher" if "teacher" in saved else "without a teacher"
    try:
        yield
    except (RuntimeError, KeyError, ValueError) as error:
        if isinstance(error, CrossmodError):
            raise
        reason = reason or "other networks"
    before, trainer.my_init_kwargs = trainer.my_init_kwargs, arguments
    for name, groups in planned.items():
        for group, values in zip(optimizers[name].param_groups, groups, strict=True):
            if not reason and group.keys() - {"params"} != values.keys():
                reason = f"another optimizer of the {name}"
            group.update(values)
    if reason:
        options = (kept["plans"].get("crossmod", {}) for kept in (before, arguments))
        changed = _changed(trainer._hyperparameter_types, *options)
        raise CrossmodError(
            f"{filename} is of a training {reason if reason.startswith('with') else f'with {reason}'}"
            f"{f' ({changed})' if changed else ''}: set the plans back with crossmod configure --overwrite, or train "
            "again without --c"
        )


def _changed(names: Iterable[str], before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """``name was old, now new`` of every hyper-parameter that differs."""
    pairs = {name: tuple(json.dumps(options.get(name)) for options in (before, now)) for name in names}
    return "; ".join(f"{name} was {old}, now {new}" for name, (old, new) in sorted(pairs.items()) if old != new)


def check_resumed(trainer: Any) -> None:
    """Refuse to go on with other annotations than the training began with.

    Raises:
        CrossmodError: block, splits or labels are not those that ``trained_on.json`` keeps.
    """
    if trainer.current_epoch > 0:
        trained_on.check(Path(trainer.output_folder), _now(trainer), ANNOTATIONS)


def keep_record(trainer: Any) -> None:
    """Keep beside the model what its training reads, where the training begins."""
    if trainer.current_epoch == 0 and trainer.local_rank == 0:
        trained_on.write(Path(trainer.output_folder), _now(trainer))


def _now(trainer: Any) -> dict[str, Any]:
    return trained_on.fingerprint(Path(trainer.preprocessed_dataset_folder_base), trainer.plans_manager.plans_name)
