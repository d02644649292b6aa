"""Predict scans with a cross-modal model: nnU-Net's own steps, the modality channel made in memory."""

from __future__ import annotations

import os
import signal
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.export_prediction import (
    convert_predicted_logits_to_segmentation_with_correct_shape,
    export_prediction_from_logits,
)
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.inference.preprocessing import Recipe, preprocess, read_case
from nnunet_crossmod.inference.trained_model import open_model
from nnunet_crossmod.paths import FINAL, device_of

__all__ = ["Predictor"]


class Predictor:
    """A trained cross-modal model, loaded once.

    Args:
        folder: ``$nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION``.
        folds: whose networks are averaged; ``None`` takes all that have the checkpoint.
        checkpoint: file name.
        device: ``"cuda"``, ``"cpu"``, ``"mps"``; ``None`` takes CUDA where there is one.
        step_size: distance of tiles, as a share of the tile.
        mirroring: average over mirrored tiles, along the axes that training mirrored.
        results_on_device: keep a scan's logits on a CUDA device; where its memory is short, nnU-Net goes without.
        show_tiles: a progress bar over the tiles of a scan.

    Raises:
        CrossmodError: the folder, a fold or a checkpoint is missing, damaged or not cross-modal.
    """

    def __init__(
        self,
        folder: Path | str,
        folds: Sequence[int | str] | None = None,
        checkpoint: str = FINAL,
        *,
        device: torch.device | str | None = None,
        step_size: float = 0.5,
        mirroring: bool = True,
        results_on_device: bool = True,
        show_tiles: bool = False,
    ) -> None:
        if not 0 < step_size <= 1:
            raise CrossmodError(f"step size {step_size} must be above 0 and at most 1: nnU-Net's default is 0.5")
        self.model = open_model(Path(folder), folds, checkpoint)
        self._predictor = self.model.load(
            tile_step_size=step_size,
            use_mirroring=mirroring,
            perform_everything_on_device=results_on_device,
            device=torch.device(device_of("auto") if device is None else device),
            allow_tqdm=show_tiles,
        )
        plans, configuration = self._predictor.plans_manager, self._predictor.configuration_manager
        self._recipe = Recipe(plans, configuration, self._predictor.dataset_json)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities the model knows."""
        return self.model.modalities

    def predict(self, image: ArrayLike, spacing: Sequence[float], modality: str) -> NDArray[np.unsignedinteger]:
        """Segment one scan.

        Args:
            image: (z, y, x), or (c, z, y, x) where the data set has c image channels; raw intensities, axes as
                ``SimpleITK.GetArrayFromImage`` gives them.
            spacing: mm, of the axes z, y, x: ``image.GetSpacing()[::-1]`` of a SimpleITK image.
            modality: one of :attr:`modalities`.

        Returns:
            labels (z, y, x), the data set's values.

        Raises:
            CrossmodError: unknown modality, or an array that is no scan.
        """
        labels: NDArray[np.unsignedinteger] = self._predict_array(image, spacing, modality, probabilities=False)
        return labels

    def predict_probabilities(
        self, image: ArrayLike, spacing: Sequence[float], modality: str
    ) -> tuple[NDArray[np.unsignedinteger], NDArray[np.floating]]:
        """As :meth:`predict`; returns labels (z, y, x) and probabilities (k, z, y, x), which sum to 1 over k."""
        labels, probabilities = self._predict_array(image, spacing, modality, probabilities=True)
        return labels, probabilities

    def _predict_array(self, image: ArrayLike, spacing: Sequence[float], modality: str, *, probabilities: bool) -> Any:
        index = self.model.index_of(modality)
        voxels = np.asarray(image, dtype=np.float32)
        voxels = voxels[None] if voxels.ndim == 3 else voxels
        _check_array(voxels, spacing, self.model.channels)
        data, properties = preprocess(voxels, {"spacing": [float(length) for length in spacing]}, index, self._recipe)
        return convert_predicted_logits_to_segmentation_with_correct_shape(
            self._logits(data),
            self._recipe.plans,
            self._recipe.configuration,
            self._predictor.label_manager,
            properties,
            return_probabilities=probabilities,
        )

    def _logits(self, data: NDArray[np.float32]) -> NDArray[np.floating]:
        logits: NDArray[np.floating] = (
            self._predictor.predict_logits_from_preprocessed_data(torch.from_numpy(data)).cpu().numpy()
        )
        return logits

    def predict_files(
        self,
        cases: Mapping[str, Sequence[Path]],
        modalities: Mapping[str, str],
        output: Path,
        *,
        save_probabilities: bool = False,
        continue_prediction: bool = False,
        readers: int = 3,
        writers: int = 3,
        progress: bool = True,
    ) -> list[str]:
        """Segment the scans of files into ``output/case<ending>``, as ``nnUNetv2_predict`` would.

        Other processes read and preprocess the next scans and write the last ones meanwhile. Every file appears
        complete or not at all. A scan that cannot be used costs no other scan its prediction.

        Args:
            cases: case → its image channels in order.
            modalities: case → its modality.
            output: folder; made if need be.
            save_probabilities: also write nnU-Net's ``.npz`` and ``.pkl``, from which models are ensembled.
            continue_prediction: leave out the cases that are predicted already.
            readers: processes that read and preprocess; 0: this one.
            writers: processes that resample and write; 0: this one.
            progress: a bar over the cases, where somebody sees it.

        Returns:
            the cases predicted.

        Raises:
            CrossmodError: unknown modality; or, after all others are predicted, cases that could not be.
        """
        indices = {case: self.model.index_of(modalities[case]) for case in cases}
        endings = [self.model.ending, *([".npz", ".pkl"] if save_probabilities else [])]
        left = [
            case
            for case in sorted(cases)
            if not (continue_prediction and all((output / f"{case}{ending}").is_file() for ending in endings))
        ]
        if not left:
            return []
        is_new = not output.exists()
        output.mkdir(parents=True, exist_ok=True)
        failed: dict[str, CrossmodError] = {}
        done: list[str] = []
        try:
            with ExitStack() as stack:
                staging = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".partial", dir=output)))
                reading, writing = (_executor(stack, min(number, len(left))) for number in (readers, writers))
                bar = stack.enter_context(tqdm(total=len(left), desc="Predict", unit="case", disable=_bar(progress)))
                jobs = (partial(read_case, cases[case], indices[case], self._recipe, case) for case in left)
                written: deque[tuple[str, Future[str]]] = deque()

                def finish(most: int) -> None:
                    while len(written) > most:
                        case, saved = written.popleft()
                        # Where the disk is full, no other case can be written either.
                        with _failing(case, failed, OSError):
                            done.append(saved.result())
                        bar.update()

                for case, prepared in zip(left, _ahead(reading, jobs, readers), strict=True):
                    with _failing(case, failed):
                        data, properties = prepared.result()
                        logits = self._logits(data)
                        target = (staging, output, case, endings)
                        written.append((case, writing.submit(_write, logits, properties, self._recipe, *target)))
                    if case in failed:
                        bar.update()
                    finish(writers + 1)
                finish(0)
        except BrokenProcessPool as error:
            raise CrossmodError(
                "a process that reads or writes scans died, most likely for want of memory: use fewer, -npp 1 -nps 1"
            ) from error
        finally:
            if done:
                self._describe(output)
            elif is_new and not any(output.iterdir()):
                output.rmdir()
        if failed:
            names = ", ".join([*failed][:10]) + (" …" if len(failed) > 10 else "")
            others = f" ({len(failed)} of {len(left)} cases were not predicted: {names})" if len(left) > 1 else ""
            raise CrossmodError(f"{next(iter(failed.values()))}{others}")
        return done

    def _describe(self, output: Path) -> None:
        """Leave what nnU-Net's ensembling and postprocessing read beside predictions."""
        for name in ("dataset.json", "plans.json"):
            partial_file = output / f".{name}.partial"
            partial_file.write_bytes((self.model.folder / name).read_bytes())
            partial_file.replace(output / name)


@contextmanager
def _failing(case: str, failed: dict[str, CrossmodError], *fatal: type[Exception]) -> Iterator[None]:
    """Note whatever is wrong with a case, so that the others are predicted; ``fatal`` is wrong with all of them."""
    try:
        yield
    except CrossmodError as error:
        failed[case] = error
    except Exception as error:
        if isinstance(error, (BrokenProcessPool, *fatal)):
            raise
        reason = " ".join(str(error).split())[:300] or "no reason given"
        failed[case] = CrossmodError(
            f"case {case!r} cannot be predicted ({type(error).__name__}: {reason}): look at the scan, or take it out"
        )


def _check_array(voxels: NDArray[np.float32], spacing: Sequence[float], channels: int) -> None:
    if voxels.ndim != 4 or len(voxels) != channels or 0 in voxels.shape:
        shape = "(z, y, x)" if channels == 1 else f"({channels}, z, y, x)"
        raise CrossmodError(f"an array of shape {voxels.shape} is no scan of this data set: give it as {shape}")
    if len(spacing) != 3 or not all(np.isfinite(length) and length > 0 for length in spacing):
        raise CrossmodError(f"spacing {tuple(spacing)} must be three lengths in mm, of the axes z, y, x")
    if not np.isfinite(voxels).all():
        raise CrossmodError("the array has NaN or infinite voxels: replace them by a finite value")
    if not all(channel.any() for channel in voxels):
        raise CrossmodError("a channel of the array is all zero: it holds no scan")


def _write(
    logits: NDArray[np.floating],
    properties: dict[str, Any],
    recipe: Recipe,
    staging: Path,
    output: Path,
    case: str,
    endings: Sequence[str],
) -> str:
    """Resample and write as nnU-Net does; what is complete moves into place, the labels last."""
    save_probabilities = len(endings) > 1
    plans, configuration, dataset_json = recipe
    export_prediction_from_logits(
        logits, properties, configuration, plans, dataset_json, str(staging / case), save_probabilities
    )
    for ending in reversed(endings):
        os.replace(staging / f"{case}{ending}", output / f"{case}{ending}")
    return case


class _SameProcess(Executor):
    """Runs a job where it is submitted."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def _executor(stack: ExitStack, processes: int) -> Executor:
    if processes <= 0:
        return _SameProcess()
    executor = ProcessPoolExecutor(processes, get_context("spawn"), initializer=_leave_interrupts_to_the_parent)
    stack.callback(executor.shutdown, wait=True, cancel_futures=True)
    return executor


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _ahead(executor: Executor, jobs: Iterator[Callable[[], Any]], number: int) -> Iterator[Future[Any]]:
    """Submit ``number`` jobs ahead of the one that is asked for, so that few results wait in memory."""
    waiting: deque[Future[Any]] = deque()
    for job in jobs:
        waiting.append(executor.submit(job))
        if len(waiting) > number:
            yield waiting.popleft()
    yield from waiting


def _bar(progress: bool) -> bool | None:
    """tqdm's ``disable``: ``None`` shows the bar where the output is a terminal."""
    return None if progress else True
