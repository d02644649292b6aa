"""What a training step of CISFA costs, split by player, against the bare passes of its networks.

    python benchmarks/cisfa_step.py                       # 2D, on CUDA where there is one
    python benchmarks/cisfa_step.py -c 3d_fullres --set generator_mode=slices
    python benchmarks/cisfa_step.py -device cpu --steps 5

The bare step runs the same networks on the same images in the same order, forward and backward, with the sum of their
outputs for a loss: no losses, no sampling, no augmentation, no optimisers. Steps and bare steps alternate within one
process and medians are compared; on the CPU in computing time, summed over threads. Batches are random images of the
planned patch size; data loading is not timed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from overhead import BATCH, batch_of, prepare
from torch import Tensor

from nnunet_crossmod.data import CrossModalBatch
from nnunet_crossmod.paths import load_trainer
from nnunet_crossmod.plans import configure, read_setting
from nnunet_crossmod.training.player import only_trainable


def main() -> None:
    """Time steps and bare steps in turn and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-c", dest="configuration", default="2d", choices=list(BATCH))
    parser.add_argument("-device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--steps", type=int, default=10, help="timed steps")
    parser.add_argument("--full", action="store_true", help="planned network and full generator, not the CPU preset")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="hyper-parameters of CISFATrainer")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trainer, loaded = build(prepare(Path(folder)), args)
        measure(trainer, loaded, args.steps)


def build(preprocessed: Path, args: argparse.Namespace) -> tuple[Any, dict[str, Any]]:
    """An initialised trainer and a batch as its loader would give it."""
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    plans["configurations"][args.configuration]["batch_size"] = BATCH[args.configuration]
    kind = load_trainer("CISFATrainer")
    if not args.full:
        plans = configure(plans, "cpu", {}, preset="cpu")
    # all terms from the first step on
    settings = {"warm_up": 0.0, "adaptation_ramp": 0.0, **dict(map(read_setting, args.set))}
    plans["crossmod"] = settings if args.full else {**kind.presets["cpu"], **settings}
    plans["continue_training"] = False
    dataset_json = json.loads((preprocessed / "dataset.json").read_text())
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = kind(plans, args.configuration, 0, dataset_json, torch.device(args.device))
        trainer.initialize()
    trainer.network.train()
    cases = trainer.block.cases
    trainer.seen = dict(cases)
    keys = [next(name for name in cases if cases[name].modality == m) for m in trainer.block.modalities]
    n = plans["configurations"][args.configuration]["batch_size"]
    loaded = batch_of(trainer, n, [keys[i % 2] for i in range(n)])
    return trainer, {**loaded, "data": loaded["data"][:, :1]}


def measure(trainer: Any, loaded: dict[str, Any], steps: int) -> None:
    """Time every part of the step by itself, and the bare passes."""
    device = trainer.device
    taken: dict[str, list[float]] = {}
    # on the CPU the time this process computes: what else runs on the machine does not count
    now = time.perf_counter if device.type == "cuda" else time.process_time

    @contextmanager
    def clock(name: str) -> Iterator[None]:
        synchronise(device)
        began = now()
        yield
        synchronise(device)
        taken.setdefault(name, []).append(now() - began)

    def timed(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        def inner(*args: Any, **kwargs: Any) -> Any:
            with clock(name):
                return run(*args, **kwargs)

        return inner

    def whole() -> None:
        trainer.iteration = 1  # every 50th step measures gradients, too
        trainer.train_step({**loaded, "target": list(loaded["target"])})

    batch = CrossModalBatch.from_loader(loaded, trainer.block, trainer.seen, device)
    for repetition in range(steps + 2):
        if repetition == 2:  # the first ones warm up
            taken.clear()
        with clock("step"):
            whole()
        with clock("bare"):
            bare(trainer, batch)
    total, alone = statistics.median(taken["step"]), statistics.median(taken["bare"])
    ratio = statistics.median(mine / theirs for mine, theirs in zip(taken["step"], taken["bare"], strict=True))
    for player in trainer.players:
        player.forward = timed(f"{player.name}: forward", player.forward)
        player.objective = timed(f"{player.name}: loss", player.objective)
        player.step = timed(f"{player.name}: backward and step", player.step)
    for _ in range(steps):
        whole()
    size = "x".join(map(str, loaded["data"].shape[2:]))
    print(f"\n{len(loaded['data'])} images of {size} on {device.type}, median of {steps}")
    for name, seconds in taken.items():
        if name not in ("step", "bare"):
            print(f"  {name:<42} {1000 * statistics.median(seconds):9.1f} ms")
    print(f"  {'whole step':<42} {1000 * total:9.1f} ms")
    print(f"  {'its networks, bare':<42} {1000 * alone:9.1f} ms   step / bare = {ratio:.2f}")


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def bare(trainer: Any, batch: CrossModalBatch) -> None:
    """The passes of one step and nothing else."""
    generator = trainer.translator.generator
    players = {player.name: player for player in trainer.players}

    def descend(name: str, *outputs: Tensor) -> None:
        torch.stack([output.float().sum() for output in outputs]).sum().backward()
        for parameter in players[name].parameters():
            parameter.grad = None

    source, target = (trainer.translator.shown(batch.images[rows]) for rows in (batch.source_rows, batch.target_rows))
    with trainer._autocast():
        made, features = generator.translate_and_encode(source)
        with only_trainable(players["generator"], trainer.players):
            queries = generator.encode(made)
            descend("generator", trainer.image_discriminator(made), *queries, *features)
        with torch.no_grad():
            made = generator(source)
        images = batch.images.clone()
        images[batch.source_rows] = trainer.translator.restored(made, images.shape[2])
        with only_trainable(players["segmenter"], trainer.players):
            maps = trainer.network(images, batch.modality, features=True)
            encoded = trainer.bare_network.encode(batch.images[batch.source_rows], batch.modality[batch.source_rows])
            judged = trainer.mask_discriminator(maps.logits[0][batch.target_rows].softmax(1))
            descend("segmenter", *maps.logits, encoded[-1], judged)
        with torch.no_grad():
            probabilities = trainer.network(images, batch.modality, features=True).logits[0].softmax(1)
        with only_trainable(players["image_discriminator"], trainer.players):
            descend("image_discriminator", trainer.image_discriminator(target), trainer.image_discriminator(made))
        with only_trainable(players["mask_discriminator"], trainer.players):
            halves = (probabilities[batch.source_rows], probabilities[batch.target_rows])
            descend("mask_discriminator", *map(trainer.mask_discriminator, halves))


if __name__ == "__main__":
    main()
