"""What the margin contrast costs, against a plain per-pixel masked softmax of the released form.

    python benchmarks/margin_contrast.py                  # 4 x 512 x 128 x 128 features, 5 classes
    python benchmarks/margin_contrast.py -device cpu --repetitions 5

Forward and backward, in single precision. Rows alternate within one process and medians are compared.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from nnunet_crossmod.losses import margin_contrast


def plain(features: Tensor, prototypes: Tensor, labels: Tensor, margin: float) -> Tensor:
    """The released form as one would write it down: normalised pixels as rows, one-hot masks, two shifted logits."""
    width = features.shape[1]
    pixels = functional.normalize(features, dim=1).movedim(1, -1).reshape(-1, width)
    cosines = pixels @ functional.normalize(prototypes, dim=1).T
    one_hot = functional.one_hot(labels.reshape(-1), len(prototypes)).to(cosines.dtype)
    sine = (1 - cosines**2).clamp(1e-4, 1).sqrt()
    widened = cosines * math.cos(margin) - sine * math.sin(margin)
    widened = torch.where(cosines > math.cos(math.pi - margin), widened, cosines - margin * math.sin(math.pi - margin))
    others = cosines - cosines.max(1, keepdim=True).values.detach()
    own = widened - widened.max(1, keepdim=True).values.detach()
    logits = others * (1 - one_hot) + own * one_hot
    log_probability = logits - torch.log(logits.exp().sum(1, keepdim=True) + 1e-4)
    return -(one_hot * log_probability).sum(1).mean()


def main() -> None:
    """Time the rows and print milliseconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs="+", default=[4, 512, 128, 128], help="n d *s")
    parser.add_argument("--classes", type=int, default=5)
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("-device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    args = parser.parse_args()
    device = torch.device(args.device)
    samples, width, *size = args.shape
    torch.manual_seed(0)
    features = torch.randn(samples, width, *size, device=device, requires_grad=True)
    prototypes = torch.randn(args.classes, width, device=device)
    labels = torch.randint(0, args.classes, (samples, *size), device=device)
    rows: dict[str, Callable[[], Tensor]] = {
        "plain, released form": lambda: plain(features, prototypes, labels, 0.4),
        'margin_contrast, "released"': lambda: margin_contrast(features, prototypes, labels, 0.4, mode="released"),
        'margin_contrast, "paper"': lambda: margin_contrast(features, prototypes, labels, 0.4),
    }
    seconds: dict[str, list[float]] = {name: [] for name in rows}
    values: dict[str, tuple[Tensor, Tensor]] = {}
    for repetition in range(args.repetitions + 2):
        for name, run in rows.items():
            features.grad = None
            began = time.perf_counter()
            loss = run()
            loss.backward()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if repetition >= 2:
                seconds[name].append(time.perf_counter() - began)
            elif features.grad is not None:
                values[name] = loss.detach(), features.grad
    reference, released, _ = rows
    for ours, theirs in zip(values[released], values[reference], strict=True):
        torch.testing.assert_close(ours, theirs)
    shape = " x ".join(map(str, args.shape))
    print(f"{shape} features, {args.classes} classes, median of {args.repetitions} on {device.type}")
    for name, taken in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(seconds[reference], taken, strict=True))
        print(f"  {name:<28} {1000 * statistics.median(taken):9.1f} ms   {ratio:5.2f} x as fast")


if __name__ == "__main__":
    main()
