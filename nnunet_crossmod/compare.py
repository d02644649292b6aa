"""``crossmod compare``: train what is missing, predict, evaluate, and put the methods into one table."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import pandas as pd

from nnunet_crossmod import trained_on
from nnunet_crossmod.comparison_tables import CEILING, FLOOR, ComparisonTables
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.evaluation import evaluate_folder, read_scores, write_evaluation
from nnunet_crossmod.evaluation.comparison import RECORD, Roles, check_roles, compare
from nnunet_crossmod.nnunet_runs import cores, predict, train
from nnunet_crossmod.paths import (
    FINAL,
    check_trainer,
    dataset_folder,
    device_of,
    let_nnunet_find_trainers,
    load_trainer,
    nnunet_folder,
    read_json,
    read_plans,
    write_whole,
)
from nnunet_crossmod.plans import configure, read_setting, resolved_configuration, write_plans
from nnunet_crossmod.raw.block import Case, CrossmodBlock, entry_of

__all__ = ["Comparison", "MethodRow", "Run", "cases_seen", "read_method", "roles_of"]

WITH_NNUNETS_AUGMENTATION = {"augmentation": "nnunet"}
"""Settings of the second floor, without the strong augmentation that all other rows share."""


Result = TypeVar("Result")


@dataclass(frozen=True)
class MethodRow:
    """A row of the table: a trainer with hyper-parameters of its own."""

    title: str
    trainer: str
    settings: Mapping[str, Any] = field(hash=False)


@dataclass(frozen=True)
class Run:
    """One training of a method. ``results`` is the fold's folder, ``work`` holds predictions and metrics."""

    name: str
    method: MethodRow
    seed: int | None
    fold: int | str
    plans: str
    results: Path
    work: Path


def read_method(text: str) -> MethodRow:
    """``AICLTrainer``, or with hyper-parameters ``AICLTrainer fpc_weight=0.05 gin=source``."""
    words = shlex.split(text)
    if not words:
        raise CrossmodError("-tr names an empty row: give the name of a trainer")
    return MethodRow(text, words[0], dict(read_setting(word, f"-tr {words[0]!r}") for word in words[1:]))


def roles_of(
    methods: Sequence[MethodRow], floor: str | None = None, ceiling: str | None = None, against: str | None = None
) -> Roles:
    """Floor and ceiling are the plain rows of their trainers unless named; tests are against the floor, or row one."""

    def plain(trainer: str) -> str | None:
        return next((method.title for method in methods if method.trainer == trainer and not method.settings), None)

    floor = floor or plain(FLOOR)
    return Roles(floor, ceiling or plain(CEILING), against or floor or methods[0].title)


@dataclass(frozen=True)
class Comparison:
    """What is compared, and where.

    Args:
        dataset: id or name; its ``imagesTs`` and ``labelsTs`` hold the test scans.
        configuration: ``2d``, ``3d_fullres``, …
        methods: the rows.
        work: gets predictions, metrics, logs and the tables.
        plans: that every row is trained on.
        folds: every one trains a model, and every model predicts the test scans.
        seeds: likewise; ``None`` leaves the seed to the plans.
        settings: hyper-parameters of all rows.
        preset: of ``crossmod configure``.
        checkpoint: that predicts.
        device: ``cpu``, ``cuda``, ``mps`` or ``auto``.
        mirroring: test-time augmentation.
        tolerance: of the normalised surface Dice, in mm.
        jobs: models trained side by side, which share the cores.
    """

    dataset: int | str
    configuration: str
    methods: Sequence[MethodRow]
    work: Path
    plans: str = "nnUNetPlans"
    folds: Sequence[int | str] = (0,)
    seeds: Sequence[int | None] = (None,)
    settings: Mapping[str, Any] | None = None
    preset: str | None = None
    checkpoint: str = FINAL
    device: str = "cpu"
    mirroring: bool = True
    tolerance: float = 2.0
    jobs: int = 1

    def run(self, roles: Roles) -> pd.DataFrame:
        """Do what is missing and write ``table.md``, ``table.csv``, ``table.tex``, ``scores.csv``; returns the table.

        Raises:
            CrossmodError: wrong input, before anything is trained; a command that failed (the message names its log).
        """
        check_roles([method.title for method in self.methods], roles)
        self.check_rows()
        nnunet_folder("nnUNet_results")
        read_plans(self.dataset, self.plans, self.configuration)
        raw, block, ending, ignore = self._test_scans()
        self.check_annotations(block)
        runs = self.prepare()
        self._check_trained(runs)
        self.work.mkdir(parents=True, exist_ok=True)
        self._record(raw, runs, roles)
        scores_per_run, failures = self._scores(runs, raw, block, ending, ignore)
        failed_rows = {run.method.title for run in failures}
        titles = [method.title for method in self.methods if method.title not in failed_rows]
        together = [scores for run, scores in scores_per_run.items() if run.method.title in titles]
        table = pd.DataFrame()
        if together:
            roles = Roles(*(role if role in titles else None for role in roles))
            table = self._tables(pd.concat(together, ignore_index=True), titles, roles, block, runs)
        if failures:
            self._record(raw, [run for run in runs if run.method.title in titles], roles)
            raise _missing(failures, runs)
        return cast("pd.DataFrame", table)

    def _scores(
        self, runs: Sequence[Run], raw: Path, block: CrossmodBlock, ending: str, ignore: int | None
    ) -> tuple[dict[Run, pd.DataFrame], dict[Run, CrossmodError]]:
        """Train, predict and evaluate every run."""

        def scores_of(run: Run) -> pd.DataFrame:
            self._predict(run, raw / "imagesTs", ending)
            scores = self._evaluate(run, raw / "labelsTs", block, ending, ignore)
            return cast(
                "pd.DataFrame", scores.assign(method=run.method.title, run=run.name, seed=run.seed, fold=run.fold)
            )

        return self._train_and(scores_of, runs)

    def _train_and(
        self, then: Callable[[Run], Result], runs: Sequence[Run]
    ) -> tuple[dict[Run, Result], dict[Run, CrossmodError]]:
        """Train what is missing of the runs, and do what comes then; one that fails does not stop the others."""
        # looked up here, as nnU-Net's search for trainers bears no second thread
        epochs = {run: self._epochs(run) for run in runs}
        epochs_left = {run: 0 if (run.results / FINAL).is_file() else epochs[run] for run in runs}
        began, trained = time.monotonic(), 0
        results, failures = {}, {}

        def carry_out(run: Run) -> Result:
            print(f"{runs.index(run) + 1}/{len(runs)}  {run.method.title}, {run.name}", flush=True)
            self._train(run, epochs[run])
            return then(run)

        pool = ThreadPoolExecutor(self.jobs)
        try:
            futures: dict[Future[Result], Run] = {pool.submit(carry_out, run): run for run in runs}
            for future in as_completed(futures):
                run = futures[future]
                try:
                    results[run] = future.result()
                except CrossmodError as error:
                    failures[run] = error
                    print(f"     {run.method.title}, {run.name} failed: {error}", flush=True)
                trained += epochs_left.pop(run)
                if trained and epochs_left:
                    minutes = (time.monotonic() - began) / 60
                    remaining = minutes * sum(epochs_left.values()) / trained
                    print(f"     {minutes:.0f} min so far, about {remaining:.0f} min remain", flush=True)
        finally:
            pool.shutdown(cancel_futures=True)
        return {run: results[run] for run in runs if run in results}, failures

    def _tables(
        self, scores: pd.DataFrame, titles: Sequence[str], roles: Roles, block: CrossmodBlock, runs: Sequence[Run]
    ) -> pd.DataFrame:
        scores.to_csv(self.work / "scores.csv", index=False)
        table = compare(scores, titles, roles, block.target)
        modalities = [m for m in (*block.target, *block.source) if m in set(table["modality"])]
        second = [m.title for m in self.methods if m.trainer == FLOOR and m.settings == WITH_NNUNETS_AUGMENTATION]
        tables = ComparisonTables(
            self.configuration, self.tolerance, len(self.seeds), roles, second[0] if second else None
        )
        tables.write(self.work, table, scores, modalities, self._conditions(titles, block, runs))
        return table

    def train_and_predict(self, scans: Path, ending: str) -> list[Run]:
        """Train what is missing; every model predicts the scans of a folder into ``predictions`` of its ``work``.

        Args:
            scans: cases with their modality channel.
            ending: of the files.

        Raises:
            CrossmodError: wrong input, before anything is trained; a command that failed (the message names its log).
        """
        runs = self.prepare()
        self._check_trained(runs)
        _, failures = self._train_and(lambda run: self._predict(run, scans, ending), runs)
        if failures:
            raise _missing(failures, runs)
        return runs

    def check_rows(self) -> None:
        """Raise :class:`CrossmodError` for a row that is there twice, names no trainer, or has a seed of its own beside
        ``seeds``; nothing is imported."""
        there = set()
        for method in self.methods:
            check_trainer(method.trainer)
            same = (method.trainer, json.dumps(method.settings, sort_keys=True))
            if same in there:
                raise CrossmodError(
                    f"-tr names two rows alike ({method.title}): give each trainer, with its settings, once"
                )
            there.add(same)
            if "seed" in {**(self.settings or {}), **method.settings} and any(seed is not None for seed in self.seeds):
                raise CrossmodError(f"{method.title} has a seed, and so has --seeds: leave one of them out")

    def check_methods(self) -> None:
        """Raise :class:`CrossmodError` for a row that is there twice, an unknown trainer or hyper-parameter."""
        from nnunet_crossmod.training.hyperparameters import resolve

        self.check_rows()
        for method in self.methods:
            kind = load_trainer(method.trainer)
            resolve(kind, kind._hyperparameter_types, {**(self.settings or {}), **method.settings}, method.title)

    def prepare(self) -> list[Run]:
        """Check every row and write the plans it needs; nothing is trained yet."""
        self.check_methods()
        preprocessed = dataset_folder("nnUNet_preprocessed", self.dataset)
        base = read_plans(self.dataset, self.plans, self.configuration)
        results = nnunet_folder("nnUNet_results") / preprocessed.name
        let_nnunet_find_trainers()
        runs = []
        for method in self.methods:
            for seed in self.seeds:
                plans = self._plans(base, preprocessed, method, seed)
                model = results / f"{method.trainer}__{plans}__{self.configuration}"
                for fold in self.folds:
                    name = f"fold{fold}" if seed is None else f"seed{seed}_fold{fold}"
                    work = self.work / _slug(method.title) / (name + self._chosen())
                    runs.append(Run(name, method, seed, fold, plans, model / f"fold_{fold}", work))
        return runs

    def check_annotations(self, block: CrossmodBlock) -> None:
        """Raise :class:`CrossmodError` where a row has no label to learn from, or forbids what the block annotates."""
        for method in self.methods:
            kind = load_trainer(method.trainer)
            settings = {**(self.settings or {}), **method.settings}
            if settings.get("forbid_annotated_target", kind.forbid_annotated_target) and block.target_annotated:
                raise CrossmodError(
                    f"the data set annotates target scans for training, which {method.trainer} forbids: add "
                    "--set forbid_annotated_target=false"
                )
            if not any(case.annotated for case in cases_seen(method.trainer, block)):
                raise CrossmodError(
                    f"no training scan of the data set has labels that {method.trainer} may use: leave the row out, or "
                    "convert the data set with such labels beside the test scans (--split)"
                )

    def _check_trained(self, runs: Sequence[Run]) -> None:
        preprocessed = dataset_folder("nnUNet_preprocessed", self.dataset)
        for run in runs:
            if any(run.results.glob("checkpoint_*.pth")):
                trained_on.check(run.results, trained_on.fingerprint(preprocessed, run.plans))

    def _epochs(self, run: Run) -> int:
        path = dataset_folder("nnUNet_preprocessed", self.dataset) / f"{run.plans}.json"
        plans = read_json(path, "plan the data set again")
        epochs: int = load_trainer(run.method.trainer).options_of(plans)["num_epochs"]
        return epochs

    def _conditions(self, titles: Sequence[str], block: CrossmodBlock, runs: Sequence[Run]) -> pd.DataFrame:
        """What the rows were trained with: samples with labels per step and steps, and whatever else differs."""
        preprocessed = dataset_folder("nnUNet_preprocessed", self.dataset)
        rows = []
        for run in {run.method.title: run for run in runs}.values():
            if run.method.title not in titles:
                continue
            written = run.results.parent / "plans.json"  # what the training used
            plans = read_json(written if written.is_file() else preprocessed / f"{run.plans}.json", "train it again")
            options = load_trainer(run.method.trainer).options_of(plans)
            batch_size = resolved_configuration(plans, self.configuration)["batch_size"]
            adam = options["optimizer_name"] != "sgd"
            labelled = _labelled_per_step(run.method, block, batch_size, options["target_batch_size"])
            rows.append(
                {
                    "method": run.method.title,
                    "labelled per step": f"{labelled:.3g}",
                    "steps": str(options["num_epochs"] * options["num_iterations_per_epoch"]),
                    "batch": str(batch_size),
                    "optimizer": options["optimizer_name"],
                    "betas": ", ".join(map(str, options["adam_betas"])) if adam else "–",
                    "learning rate": f"{options['initial_lr']:g}",
                    "schedule": options["lr_schedule"],
                }
            )
        conditions = pd.DataFrame(rows)
        always = ("method", "labelled per step", "steps")
        return cast(
            "pd.DataFrame",
            conditions[[name for name in conditions if name in always or conditions[name].nunique() > 1]],
        )

    def _threads(self) -> int:
        return max(1, cores() // self.jobs)

    def _chosen(self) -> str:
        name = self.checkpoint.removesuffix(".pth").removeprefix("checkpoint_")
        return "" if name == "final" else f"_{name}"

    def _plans(self, base: Mapping[str, Any], folder: Path, method: MethodRow, seed: int | None) -> str:
        """The plans of a run: the given ones where nothing is changed, else a copy whose name says what is."""
        settings = {**(self.settings or {}), **method.settings, **({} if seed is None else {"seed": seed})}
        if not settings and self.preset is None:
            return self.plans
        own = load_trainer(method.trainer).presets.get(self.preset or "", {})
        words = [self.preset] if self.preset else []
        words += [method.trainer] if own else []
        words += [f"{name}-{json.dumps(value)}" for name, value in settings.items() if name != "seed"]
        words += [] if settings.get("seed") is None else [f"seed{settings['seed']}"]
        name = _slug("_".join([self.plans, *words]))
        plans = json.loads(json.dumps(configure(base, name, {**own, **settings}, preset=self.preset)))
        file = folder / f"{name}.json"
        if not file.is_file():
            write_plans(plans, folder)
        elif read_json(file, "remove it") != plans:
            raise CrossmodError(
                f"{file} differs from what {self.plans} and these settings make: the data set was planned again since; "
                "remove that file and the results trained on it"
            )
        return name

    def _test_scans(self) -> tuple[Path, CrossmodBlock, str, int | None]:
        raw = dataset_folder("nnUNet_raw", self.dataset)
        dataset_json = read_json(raw / "dataset.json", "convert the data set again")
        block = CrossmodBlock.from_dataset_json(dataset_json, str(raw / "dataset.json"))
        ending: str = entry_of(dataset_json, "file_ending", str(raw / "dataset.json"))
        for folder in ("imagesTs", "labelsTs"):
            if not any((raw / folder).glob(f"*{ending}")):
                raise CrossmodError(
                    f"{raw / folder} holds no test scan: convert the data set with test cases, which stand under "
                    '"test" in the "crossmod" block of dataset.json'
                )
        return raw, block, ending, dataset_json["labels"].get("ignore")

    def _train(self, run: Run, epochs: int) -> None:
        if (run.results / FINAL).is_file():
            return
        started = any((run.results / f"checkpoint_{name}.pth").is_file() for name in ("latest", "best"))
        train(
            self.dataset,
            self.configuration,
            run.method.trainer,
            run.plans,
            device=device_of(self.device),
            log=self._log(run, "train"),
            title="train",
            epochs=epochs,
            fold=run.fold,
            resume=started,
            threads=self._threads(),
            show_progress=self.jobs == 1,
        )

    def _predict(self, run: Run, scans: Path, ending: str) -> None:
        folder = run.work / "predictions"
        number = len({file.name.rsplit("_", 1)[0] for file in scans.glob(f"*{ending}")})
        checkpoint = run.results / self.checkpoint
        if not checkpoint.is_file():
            checkpoints = ", ".join(sorted(path.name for path in run.results.glob("*.pth")))
            raise CrossmodError(f"{checkpoint} does not exist; that training left {checkpoints}")
        predicted = list(folder.glob(f"*{ending}"))
        made_by = {"checkpoint": str(checkpoint), "mirroring": self.mirroring}
        record_path = run.work / "predicted_by.json"
        kept = read_json(record_path, "remove it, to predict again") if record_path.is_file() else None
        if predicted and (
            kept != made_by or any(file.stat().st_mtime < checkpoint.stat().st_mtime for file in predicted)
        ):
            shutil.rmtree(folder)  # of another model, or of a training that went on since
            predicted = []
        record_path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(record_path, json.dumps(made_by, indent=2) + "\n")
        if len(predicted) >= number:
            return
        if predicted:
            unsure = max(predicted, key=lambda file: file.stat().st_mtime)
            unsure.unlink()  # a prediction that was killed may have left it half-written
            predicted.remove(unsure)
        predict(
            scans,
            folder,
            self.dataset,
            self.configuration,
            run.method.trainer,
            run.plans,
            device=device_of(self.device),
            log=self._log(run, "predict"),
            title="predict",
            number=number - len(predicted),
            mirroring=self.mirroring,
            fold=run.fold,
            checkpoint=self.checkpoint,
            resume=True,
            threads=self._threads(),
            show_progress=self.jobs == 1,
        )

    def _evaluate(
        self, run: Run, references: Path, block: CrossmodBlock, ending: str, ignore: int | None
    ) -> pd.DataFrame:
        kept, summary = run.work / "metrics.csv", run.work / "summary.json"
        files = [*(run.work / "predictions").glob(f"*{ending}"), *references.glob(f"*{ending}")]
        written = kept.is_file() and summary.is_file() and kept.stat().st_mtime_ns >= summary.stat().st_mtime_ns
        if written and kept.stat().st_mtime > max(file.stat().st_mtime for file in files):
            kept_summary = read_json(summary, f"remove {kept}, to evaluate again")
            if kept_summary["conventions"]["tolerance_mm"] == self.tolerance:
                return read_scores(kept)
        modalities = {case.name: case.modality for case in block.test.values()}
        scores = evaluate_folder(
            run.work / "predictions",
            references,
            block.labels,
            modalities,
            ending,
            ignore,
            tolerance=self.tolerance,
            processes=None if self.jobs == 1 else self._threads(),
        )
        write_evaluation(scores, run.work, self.tolerance)
        return scores

    def _log(self, run: Run, what: str) -> Path:
        run.work.mkdir(parents=True, exist_ok=True)
        return run.work / f"{what}.log"

    def _record(self, raw: Path, runs: Sequence[Run], roles: Roles) -> None:
        """What ``crossmod report`` reads."""
        record = {
            "dataset": raw.name,
            "configuration": self.configuration,
            "checkpoint": self.checkpoint,
            "tolerance_mm": self.tolerance,
            "roles": roles._asdict(),
            "runs": [
                {
                    "method": asdict(run.method),
                    "run": run.name,
                    "seed": run.seed,
                    "fold": run.fold,
                    "plans": run.plans,
                    "results": str(run.results),
                    "work": str(run.work.relative_to(self.work)),
                }
                for run in runs
            ],
        }
        write_whole(self.work / RECORD, json.dumps(record, indent=2, ensure_ascii=False) + "\n")


def _missing(failures: Mapping[Run, CrossmodError], runs: Sequence[Run]) -> CrossmodError:
    lines = [f"{run.method.title}, {run.name}: {error}" for run, error in failures.items()]
    return CrossmodError(f"{len(failures)} of {len(runs)} models are missing: " + "; ".join(lines))


def cases_seen(trainer: str, block: CrossmodBlock) -> list[Case]:
    """The cases of a block as a training by that trainer sees them, those that it leaves out not among them."""
    kind = load_trainer(trainer)
    unused = kind.__new__(kind)  # what is seen follows from the block alone
    unused.block = block
    return [seen for case in block.cases.values() if (seen := unused.see(case)) is not None]


def _labelled_per_step(
    method: MethodRow, block: CrossmodBlock, batch_size: int, target_batch_size: int | None
) -> float:
    """Expected number of annotated samples in a step: as many of the source as planned, and those of the target."""
    annotated: dict[str, list[bool]] = {}
    for case in cases_seen(method.trainer, block):
        annotated.setdefault(case.modality, []).append(case.annotated)
    source, target = (
        [sum(annotated[name]) / len(annotated[name]) for name in role if name in annotated]
        for role in (block.source, block.target)
    )
    sizes = ((source, batch_size), (target, (target_batch_size or batch_size) if source else batch_size))
    return sum(shares[i % len(shares)] for shares, size in sizes if shares for i in range(size))


def _slug(text: str) -> str:
    """A name for files; where characters are lost, a digest keeps names apart."""
    plain = re.sub(r"_{2,}", "_", re.sub(r"[^\w.=-]+", "-", text.replace('"', "")))
    if plain == text.replace('"', "").replace(" ", "-") and len(plain) < 120:
        return plain
    return f"{plain[:100]}-{hashlib.sha1(text.encode()).hexdigest()[:8]}"
