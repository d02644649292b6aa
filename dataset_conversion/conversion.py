"""What the conversions have in common: one :class:`DataSet` each, a table of label values and a function that finds
its scans."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from nnunet_crossmod.errors import CrossmodError

from .command_line import add_common_arguments, print_next_step, read_shots
from .command_line import main as run_as_script
from .find_files import Findings
from .preview import print_preview
from .raw_dataset import RawDataset, Scan
from .reuse import reuse_dataset
from .roles import GENERAL_SPLITS, NamedSplits, TestChoice, annotate_shots, annotate_sources, choose_test_subjects
from .writer import write_raw_dataset

__all__ = ["DataSet", "ids_of"]

Folders: TypeAlias = Path | Sequence[Path]
Find: TypeAlias = Callable[[Sequence[Path], Findings], Iterable[Scan]]


@dataclass(frozen=True)
class DataSet:
    """A data set that can be converted.

    Attributes:
        name: what follows ``DatasetXXX_``.
        description: one line, for ``dataset.json``.
        expects: what the input folder must hold.
        ids: modality → value in its label files → structure. Any other value but 0 is an error.
        structures: named choices of structures, the first is the default; the others become background.
        find: finds the scans below some folders. It need not care for roles.
        source: modalities annotated by default.
        target: modalities adapted to by default.
        splits: named test splits beside the general ones; says whether a scan is a test scan.
        split: the split by default.
        registered: whether the scans of a subject lie on one grid.
        partial: whether each modality is annotated for its own structures (``ids``), source or target.
        reference: for ``dataset.json``.
        licence: for ``dataset.json``.
        note: printed after the conversion.
        warn: what is doubtful about the scans found, one line each; printed with the preview.
    """

    name: str
    description: str
    expects: str
    ids: Mapping[str, Mapping[int, str]]
    structures: Mapping[str, Sequence[str]]
    find: Find
    source: Sequence[str]
    target: Sequence[str]
    splits: NamedSplits = field(default_factory=dict)
    split: str = "fifth"
    registered: bool = False
    partial: bool = False
    reference: str = ""
    licence: str = ""
    note: str = ""
    warn: Callable[[Sequence[Scan]], Sequence[str]] = lambda scans: ()

    def convert(
        self,
        input_folder: Folders,
        dataset_id: int,
        source: Sequence[str] | None = None,
        target: Sequence[str] | None = None,
        *,
        raw_folder: Path | None = None,
        overwrite: bool = False,
        skip_broken: bool = False,
        **choices: Any,
    ) -> Path:
        """Describe and write the data set.

        Args:
            input_folder: where the files lie, in sub-folders or not; several folders may be given.
            dataset_id: 1 to 999.
            source: modalities whose labelled scans are annotated; their other training scans are left out.
            target: modalities to adapt to, none annotated.
            raw_folder: where to write; ``$nnUNet_raw`` by default.
            overwrite: replace the data set that has this id.
            skip_broken: leave out what is unusable instead of stopping.
            choices: ``test``, ``shots``, ``structures`` and ``seed`` of :meth:`describe`.

        Returns:
            The folder written.

        Raises:
            CrossmodError: nothing found, or what :func:`write_raw_dataset` refuses.
        """
        folders = [input_folder] if isinstance(input_folder, Path) else list(input_folder)
        dataset = self.describe(folders, source, target, Findings(skip_broken), **choices)
        print_preview(dataset, self.warn(dataset.scans))
        folder = write_raw_dataset(
            dataset, dataset_id, raw_folder=raw_folder, overwrite=overwrite, skip_broken=skip_broken
        )
        if self.note:
            print(self.note)
        return folder

    def describe(
        self,
        folders: Sequence[Path],
        source: Sequence[str] | None,
        target: Sequence[str] | None,
        findings: Findings,
        *,
        test: TestChoice | None = None,
        shots: Mapping[str, int] | None = None,
        structures: str | None = None,
        seed: int = 12345,
    ) -> RawDataset:
        """Find the scans and give them their roles; no image is read.

        Args:
            folders: where the files lie.
            source: modalities whose labelled scans are annotated.
            target: modalities to adapt to.
            findings: collects what is wrong with single files.
            test: a named split, or the words of ``--test``. All scans of a test subject are test scans.
            shots: target modality → how many of its labelled training scans are annotated all the same.
            structures: which named choice of structures to keep.
            seed: of random splits, shots and folds.

        Raises:
            CrossmodError: an unknown modality, choice or test subject, or no scan at all.
        """
        source, target = list(source or self.source), list(target or self.target)
        labels, structures = self._labels(structures)
        scans = self._find(folders, [*source, *target], findings)
        test = self.split if test is None else test
        test_subjects = choose_test_subjects(scans, target, test, self.splits, seed)
        scans = [replace(scan, test=scan.subject in test_subjects) for scan in scans]
        structures_of = {
            modality: list(dict.fromkeys(name for name in ids.values() if name in labels))
            for modality, ids in self.ids.items()
        }
        scans, left_out = annotate_sources(scans, source, structures_of if self.partial else None)
        return RawDataset(
            name=self.name,
            scans=annotate_shots([self._with_label_map(scan, labels) for scan in scans], shots or {}, seed),
            labels=labels,
            modalities=[*source, *target],
            source=source,
            target=target,
            registered=self.registered,
            seed=seed,
            description=self.description,
            reference=self.reference,
            licence=self.licence,
            conversion={"split": test if isinstance(test, str) else sorted(test_subjects), "structures": structures},
            left_out=[*findings.left_out, *left_out],
        )

    def _find(self, folders: Sequence[Path], modalities: Sequence[str], findings: Findings) -> list[Scan]:
        unknown = [name for name in modalities if name not in self.ids]
        if unknown:
            raise CrossmodError(f"modality {unknown[0]!r} is not one of {list(self.ids)}: correct --source or --target")
        for folder in folders:
            if not folder.is_dir():
                raise CrossmodError(f"{folder} is no folder: give with -i {self.expects}")
        scans = [scan for scan in self.find(folders, findings) if scan.modality in modalities]
        if not scans:
            raise CrossmodError(
                f"{', '.join(map(str, folders))} holds no scan of {', '.join(modalities)}: give with -i {self.expects}"
            )
        return scans

    def _labels(self, structures: str | None) -> tuple[dict[str, int], str]:
        """The labels of a choice of structures, and its name."""
        structures = next(iter(self.structures)) if structures is None else structures
        if structures not in self.structures:
            raise CrossmodError(f"--structures {structures} is not one of {list(self.structures)}")
        names = ["background", *self.structures[structures]]
        return {name: value for value, name in enumerate(names)}, structures

    def _with_label_map(self, scan: Scan, labels: Mapping[str, int]) -> Scan:
        return replace(scan, label_map={value: labels.get(name, 0) for value, name in self.ids[scan.modality].items()})

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command line."""
        add_common_arguments(parser, source=self.source, target=self.target)
        origin = parser.add_mutually_exclusive_group(required=True)
        origin.add_argument("-i", dest="input", type=Path, nargs="+", metavar="FOLDER", help=self.expects)
        origin.add_argument(
            "--reuse", type=int, metavar="ID", help="share the files of this data set: another direction of it"
        )
        meanings = {**dict.fromkeys(self.splits, "as in the literature"), **GENERAL_SPLITS}
        explained = "; ".join(f"{name}, {meaning}" for name, meaning in meanings.items())
        which = parser.add_mutually_exclusive_group()
        which.add_argument(
            "--split",
            choices=list(meanings),
            metavar="NAME",
            help=f"test subjects: {explained} (default: {self.split}; with --reuse, those of that data set)",
        )
        which.add_argument(
            "--test",
            nargs="+",
            metavar="NAME",
            help="test subjects by name or number, or patterns of scan names or files",
        )
        if len(self.structures) > 1:
            parser.add_argument(
                "--structures",
                choices=list(self.structures),
                help="; ".join(f"{name}: {', '.join(kept)}" for name, kept in self.structures.items()),
            )
        parser.add_argument("--skip-broken", action="store_true", help="leave out what is unusable, and list it")

    def run(self, args: argparse.Namespace) -> None:
        """Carry out the command."""
        if args.reuse is not None:
            self._reuse(args)
        else:
            self.convert(
                args.input,
                args.dataset_id,
                args.source,
                args.target,
                overwrite=args.overwrite,
                skip_broken=args.skip_broken,
                test=args.test or args.split,
                shots=read_shots(args.shots, args.target),
                structures=getattr(args, "structures", None),
            )
        print_next_step(args.dataset_id)

    def _reuse(self, args: argparse.Namespace) -> None:
        if args.shots or args.skip_broken or getattr(args, "structures", None):
            raise CrossmodError("--reuse takes its data set as it is: leave --shots, --structures, --skip-broken out")
        if args.split in self.splits:
            raise CrossmodError(
                f"--reuse keeps the test subjects of data set {args.reuse}: leave --split {args.split} out, or "
                f"name others with --test or --split {', '.join(GENERAL_SPLITS)}"
            )
        reuse_dataset(
            args.reuse,
            args.dataset_id,
            args.source,
            args.target,
            test=args.test or args.split,
            overwrite=args.overwrite,
        )

    def main(self) -> None:
        """Run as a script."""
        run_as_script(self.description, self.add_arguments, self.run)


def ids_of(modalities: Iterable[str], table: Mapping[int, str]) -> dict[str, Mapping[int, str]]:
    """One label table for several modalities."""
    return dict.fromkeys(modalities, table)
