"""What the conversions have in common: one :class:`DataSet` each, a table of label values and a function that finds
its scans."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from nnunet_crossmod.errors import CrossmodError

from .command_line import (
    add_common_arguments,
    add_file_arguments,
    print_next_step,
    read_handling,
    read_labels,
    read_shots,
)
from .command_line import main as run_as_script
from .find_files import Findings
from .preview import print_preview
from .raw_dataset import AS_THEY_ARE, IGNORE, Deferred, Handling, RawDataset, Scan, in_order
from .reuse import reuse_dataset
from .roles import (
    GENERAL_SPLITS,
    NamedSplits,
    TestChoice,
    annotate_shots,
    annotate_sources,
    choose_test_subjects,
    resolve_roles,
)
from .writer import try_raw_dataset, write_raw_dataset

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
        handling: Handling = AS_THEY_ARE,
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
            handling: how label maps and orientations are taken.
            choices: ``test``, ``shots``, ``structures`` and ``seed`` of :meth:`describe`.

        Returns:
            The folder written.

        Raises:
            CrossmodError: nothing found, or what :func:`write_raw_dataset` refuses.
        """
        findings = Findings(skip_broken)
        dataset = self._previewed(input_folder, source, target, findings, handling, choices)
        folder = write_raw_dataset(
            dataset, dataset_id, raw_folder=raw_folder, overwrite=overwrite, skip_broken=skip_broken
        )
        if self.note:
            print(self.note)
        return folder

    def try_out(
        self,
        input_folder: Folders,
        dataset_id: int,
        source: Sequence[str] | None = None,
        target: Sequence[str] | None = None,
        *,
        raw_folder: Path | None = None,
        overwrite: bool = False,
        handling: Handling = AS_THEY_ARE,
        **choices: Any,
    ) -> None:
        """Read everything that :meth:`convert` would, print all that is wrong in one table, and write nothing.

        Raises:
            CrossmodError: something is wrong.
        """
        findings = Findings(skip_broken=True)
        dataset = self._previewed(input_folder, source, target, findings, handling, choices)
        try_raw_dataset(dataset, dataset_id, findings.left_out, raw_folder=raw_folder, overwrite=overwrite)

    def _previewed(
        self,
        input_folder: Folders,
        source: Sequence[str] | None,
        target: Sequence[str] | None,
        findings: Findings,
        handling: Handling,
        choices: Mapping[str, Any],
    ) -> RawDataset:
        """The data set described, its preview printed."""
        folders = [input_folder] if isinstance(input_folder, Path) else list(input_folder)
        dataset = replace(self.describe(folders, source, target, findings, **choices), handling=handling)
        print_preview(dataset, self.warn(dataset.scans))
        if unused := findings.unused():
            names = ", ".join(str(path) for path in unused[:5])
            print(f"Note: {len(unused)} files in the input folders are not used: {names}{' …' if unused[5:] else ''}")
        for case, name in findings.renamed.items():
            print(f"Note: {name!r} becomes {case!r}")
        return dataset

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
        source, target = self._roles(source, target)
        labels, structures = self._labels(structures)
        scans = self._find(folders, [*source, *target], findings)
        test = self.split if test is None else test
        test_subjects = choose_test_subjects(scans, target, test, self.splits, seed)
        scans = [replace(scan, test=scan.subject in test_subjects) for scan in scans]
        structures_of = {
            modality: list(dict.fromkeys(name for name in ids.values() if name in labels))
            for modality, ids in self.ids.items()
        }
        ignored = sorted({value for ids in self.ids.values() for value, name in ids.items() if name == IGNORE})
        scans, left_out = annotate_sources(scans, source, structures_of if self.partial else None)
        return RawDataset(
            name=self.name,
            scans=annotate_shots([self._with_label_map(scan, labels) for scan in scans], shots or {}, seed),
            labels=labels,
            modalities=in_order([*source, *target]),
            source=source,
            target=target,
            registered=self.registered,
            seed=seed,
            description=self.description,
            reference=self.reference,
            licence=self.licence,
            conversion={
                "split": test if isinstance(test, str) else sorted(test_subjects),
                "structures": structures,
                **({"renamed": findings.renamed} if findings.renamed else {}),
                **({"ignored_values": ignored} if ignored else {}),
            },
            left_out=[*findings.left_out, *left_out],
        )

    def _roles(self, source: Sequence[str] | None, target: Sequence[str] | None) -> tuple[list[str], list[str]]:
        return resolve_roles(source, target, self.source, self.target, list(self.ids))

    def _find(self, folders: Sequence[Path], modalities: Sequence[str], findings: Findings) -> list[Scan]:
        unknown = [name for name in modalities if name not in self.ids]
        if unknown:
            raise CrossmodError(f"modality {unknown[0]!r} is not one of {list(self.ids)}: correct --source or --target")
        for folder in folders:
            if not folder.is_dir():
                raise CrossmodError(f"{folder} is no folder: give with -i {self.expects}")
        found = list(self.find(folders, findings))
        findings.used |= {
            place.where if isinstance(place, Deferred) else place
            for scan in found
            for place in (scan.image, scan.label)
            if isinstance(place, Deferred | Path)
        }
        scans = [scan for scan in found if scan.modality in modalities]
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
        values = {**labels, IGNORE: len(labels)}
        return replace(scan, label_map={value: values.get(name, 0) for value, name in self.ids[scan.modality].items()})

    def with_labels(self, labels: Mapping[str, Sequence[int]]) -> DataSet:
        """The data set with other structures, or other values of them in its label files."""
        ids = {value: name for name, values in labels.items() for value in values}
        names = [name for name in labels if name not in ("background", IGNORE)]
        return replace(self, ids=dict.fromkeys(self.ids, ids), structures={"all": names})

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command line."""
        add_common_arguments(parser, source=self.source, target=self.target)
        add_file_arguments(parser)
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
        if len({tuple(sorted(table.items())) for table in self.ids.values()}) == 1:
            table = next(iter(self.ids.values()))
            parser.add_argument(
                "--labels",
                nargs="+",
                default=[],
                metavar="NAME=ID[,ID]",
                help="structures and their values, where they are others than "
                + " ".join(f"{name}={value}" for value, name in table.items()),
            )

    def run(self, args: argparse.Namespace) -> None:
        """Carry out the command."""
        source, target = self._roles(args.source, args.target)
        if args.reuse is not None:
            self._reuse(args, source, target)
            print_next_step(args.dataset_id)
            return
        labels = read_labels(getattr(args, "labels", []), "--labels")
        dataset = self.with_labels(labels) if labels else self
        structures = None if labels else getattr(args, "structures", None)
        shots = read_shots(args.shots, target)
        dataset.carry_out(args, args.input, source, target, shots=shots, structures=structures)

    def carry_out(
        self,
        args: argparse.Namespace,
        input_folder: Folders,
        source: Sequence[str] | None,
        target: Sequence[str] | None,
        **choices: Any,
    ) -> None:
        """Convert, or with ``--dry-run`` try to, as the flags of all conversions say."""
        roles = (input_folder, args.dataset_id, source, target)
        choices |= {"overwrite": args.overwrite, "test": args.test or args.split, "handling": read_handling(args)}
        if args.dry_run:
            self.try_out(*roles, **choices)
        else:
            self.convert(*roles, skip_broken=args.skip_broken, **choices)
            print_next_step(args.dataset_id)

    def _reuse(self, args: argparse.Namespace, source: Sequence[str], target: Sequence[str]) -> None:
        changes = (
            "shots",
            "skip_broken",
            "structures",
            "labels",
            "dry_run",
            "allow_empty",
            "resample_labels",
            "reorient",
        )
        if changing := [f"--{name.replace('_', '-')}" for name in changes if getattr(args, name, None)]:
            raise CrossmodError(f"--reuse takes its data set as it is: leave {', '.join(changing)} out")
        if args.split in self.splits:
            raise CrossmodError(
                f"--reuse keeps the test subjects of data set {args.reuse}: leave --split {args.split} out, or "
                f"name others with --test or --split {', '.join(GENERAL_SPLITS)}"
            )
        reuse_dataset(
            args.reuse,
            args.dataset_id,
            source,
            target,
            test=args.test or args.split,
            overwrite=args.overwrite,
        )

    def main(self) -> None:
        """Run as a script."""
        run_as_script(self.description, self.add_arguments, self.run)


def ids_of(modalities: Iterable[str], table: Mapping[int, str]) -> dict[str, Mapping[int, str]]:
    """One label table for several modalities."""
    return dict.fromkeys(modalities, table)
