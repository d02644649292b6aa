"""What all conversions have in common: roles, named splits, choices of structures, the command line.

A data set is one :class:`DataSet`: a table of label values and a function that finds its scans.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeAlias

import numpy as np

from nnunet_crossmod.errors import CrossmodError

from .raw_dataset import Deferred, Scan, add_common_arguments, annotate_shots, read_shots, write_raw_dataset
from .raw_dataset import main as run_as_script
from .reuse import reuse_dataset

__all__ = ["DataSet", "Findings", "Folders", "ids_of", "match_files", "tested_subjects"]

Folders: TypeAlias = Path | Sequence[Path]
Key: TypeAlias = tuple[str, ...]

SPLITS = {
    "labelled-target": "subjects with a labelled target scan",
    "fifth": "a random fifth of the subjects of each modality (seed 12345)",
    "none": "no test subjects",
}


@dataclass
class Findings:
    """What is wrong with the files found, and what was left out.

    Attributes:
        skip_broken: go on after something broken.
        left_out: what was left out and why, one line each.
    """

    skip_broken: bool = False
    left_out: list[str] = field(default_factory=list)

    def broken(self, message: str) -> None:
        """Stop with the message; or note it and go on."""
        if not self.skip_broken:
            raise CrossmodError(message)
        self.left_out.append(message)


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
    """

    name: str
    description: str
    expects: str
    ids: Mapping[str, Mapping[int, str]]
    structures: Mapping[str, Sequence[str]]
    find: Find
    source: Sequence[str]
    target: Sequence[str]
    splits: Mapping[str, Callable[[Scan], bool]] = field(default_factory=dict)
    split: str = "fifth"
    registered: bool = False
    partial: bool = False
    reference: str = ""
    licence: str = ""
    note: str = ""

    def convert(
        self,
        input_folder: Folders,
        dataset_id: int,
        source: Sequence[str] | None = None,
        target: Sequence[str] | None = None,
        *,
        test: str | Sequence[int | str] | None = None,
        shots: Mapping[str, int] | None = None,
        structures: str | None = None,
        skip_broken: bool = False,
        raw_folder: Path | None = None,
        overwrite: bool = False,
        seed: int = 12345,
    ) -> Path:
        """Write the data set; see :func:`write_raw_dataset` for the arguments not listed.

        Args:
            input_folder: where the files lie, in sub-folders or not; several folders may be given.
            dataset_id: 1 to 999.
            source: modalities whose labelled scans are annotated; their other training scans are left out.
            target: modalities to adapt to, none annotated.
            test: a named split, or subjects by name, by number or by a pattern of scan names or files. All scans of a
                test subject are test scans.
            shots: target modality → how many of its labelled training scans are annotated all the same.
            structures: which named choice of structures to keep.
            skip_broken: leave out what is unusable instead of stopping.

        Raises:
            CrossmodError: nothing found, or what :func:`write_raw_dataset` refuses.
        """
        source, target = list(source or self.source), list(target or self.target)
        unknown = [name for name in (*source, *target) if name not in self.ids]
        if unknown:
            raise CrossmodError(f"modality {unknown[0]!r} is not one of {list(self.ids)}: correct --source or --target")
        structures = next(iter(self.structures)) if structures is None else structures
        if structures not in self.structures:
            raise CrossmodError(f"--structures {structures} is not one of {list(self.structures)}")
        labels = {"background": 0} | {name: 1 + place for place, name in enumerate(self.structures[structures])}
        folders = [input_folder] if isinstance(input_folder, Path) else list(input_folder)
        for folder in folders:
            if not folder.is_dir():
                raise CrossmodError(f"{folder} is no folder: give with -i {self.expects}")
        findings = Findings(skip_broken)
        scans = [scan for scan in self.find(folders, findings) if scan.modality in (*source, *target)]
        if not scans:
            raise CrossmodError(
                f"{', '.join(map(str, folders))} holds no scan of {', '.join((*source, *target))}: give with -i "
                f"{self.expects}"
            )
        test = self.split if test is None else test
        tested = tested_subjects(scans, target, test, self.splits, seed)
        kept = []
        unlabelled: dict[str, list[str]] = {}
        for scan in scans:
            values = {value: labels.get(name, 0) for value, name in self.ids[scan.modality].items()}
            scan = replace(scan, test=scan.subject in tested, label_map=values)
            if self.partial and scan.label is not None and not scan.test:
                seen = [name for name in self.ids[scan.modality].values() if name in labels]
                scan = replace(scan, annotated=tuple(dict.fromkeys(seen)))
            elif scan.modality in source and not scan.test:
                if scan.label is None:
                    unlabelled.setdefault(scan.modality, []).append(scan.name)
                    continue
                scan = replace(scan, annotated="all")
            kept.append(scan)
        findings.left_out += [
            f"{len(names)} source scans of {modality} without labels: {', '.join(names)}"
            for modality, names in unlabelled.items()
        ]
        folder = write_raw_dataset(
            annotate_shots(kept, shots or {}, seed),
            dataset_id=dataset_id,
            name=self.name,
            labels=labels,
            modalities=[*source, *target],
            source=source,
            target=target,
            registered=self.registered,
            raw_folder=raw_folder,
            overwrite=overwrite,
            description=self.description,
            reference=self.reference,
            licence=self.licence,
            seed=seed,
            skip_broken=skip_broken,
            left_out=findings.left_out,
            conversion={"split": test if isinstance(test, str) else sorted(tested), "structures": structures},
        )
        if self.note:
            print(self.note)
        return folder

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command line."""
        add_common_arguments(parser, source=self.source, target=self.target, input_help=None)
        origin = parser.add_mutually_exclusive_group(required=True)
        origin.add_argument("-i", dest="input", type=Path, nargs="+", metavar="FOLDER", help=self.expects)
        origin.add_argument(
            "--reuse",
            type=int,
            metavar="ID",
            help="share the files of this data set: another direction of it",
        )
        told = {**dict.fromkeys(self.splits, "as in the literature"), **SPLITS}
        explained = "; ".join(f"{name}, {what}" for name, what in told.items())
        which = parser.add_mutually_exclusive_group()
        which.add_argument(
            "--split",
            choices=list(told),
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
        test = args.test or args.split
        if args.reuse is not None:
            if args.shots or args.skip_broken or getattr(args, "structures", None):
                raise CrossmodError(
                    "--reuse takes its data set as it is: leave --shots, --structures, --skip-broken out"
                )
            if args.split in self.splits:
                raise CrossmodError(
                    f"--reuse keeps the test subjects of data set {args.reuse}: leave --split {args.split} out, or "
                    f"name others with --test or --split {', '.join(SPLITS)}"
                )
            reuse_dataset(
                args.reuse,
                args.dataset_id,
                args.source,
                args.target,
                tested=lambda scans, target: None if test is None else tested_subjects(scans, target, test, {}, 12345),
                overwrite=args.overwrite,
            )
            return
        self.convert(
            args.input,
            args.dataset_id,
            args.source,
            args.target,
            test=test,
            shots=read_shots(args.shots, args.target),
            structures=getattr(args, "structures", None),
            skip_broken=args.skip_broken,
            overwrite=args.overwrite,
        )

    def main(self) -> None:
        """Run as a script."""
        run_as_script(self.description, self.add_arguments, self.run)


def ids_of(modalities: Iterable[str], table: Mapping[int, str]) -> dict[str, Mapping[int, str]]:
    """One label table for several modalities."""
    return dict.fromkeys(modalities, table)


def match_files(
    folders: Sequence[Path], pattern: str, findings: Findings, expects: str
) -> tuple[dict[Key, Path], dict[Key, Path]]:
    """Images and label files by what their path tells.

    Args:
        folders: where to look, sub-folders included.
        pattern: a regular expression for the path below the folder, whose group ``label`` is found in label files only;
            the other named groups are the key of a file, in their order. ``.nii`` or ``.nii.gz`` follows by itself.
        findings: told of a file that occurs twice and of a label without image.
        expects: what files are expected, for the message.

    Returns:
        Key → image and key → label file, in the order of the numbers in the keys.

    Raises:
        CrossmodError: no image at all.
    """
    wanted = re.compile(rf"(?:^|/){pattern}\.nii(?:\.gz)?")
    groups = [name for name in wanted.groupindex if name != "label"]
    images: dict[Key, Path] = {}
    labels: dict[Key, Path] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*.nii*")):
            found = re.search(rf"{wanted.pattern}$", path.relative_to(folder).as_posix())
            if found is None:
                continue
            key, files = tuple(found[name] for name in groups), labels if found["label"] else images
            if key in files:
                findings.broken(f"{files[key]} and {path} are the same file of the data set: remove one")
            else:
                files[key] = path
    if not images:
        raise CrossmodError(f"{', '.join(map(str, folders))} holds no {expects} file: check the path")
    for key in [key for key in labels if key not in images]:
        findings.broken(f"{labels.pop(key)} has no image beside it: add the image, or remove the label")
    ordered = sorted(images, key=lambda key: [[int(n) for n in re.findall(r"\d+", part)] for part in key])
    return {key: images[key] for key in ordered}, labels


def tested_subjects(
    scans: Sequence[Scan],
    target: Sequence[str],
    test: str | Sequence[int | str],
    splits: Mapping[str, Callable[[Scan], bool]],
    seed: int,
) -> set[str]:
    """The test subjects.

    Args:
        scans: all scans; ``label`` says which are labelled.
        target: the target modalities.
        test: a named split, or subjects by name or by the number at their end.
        splits: the named splits of the data set, beside the general ones.
        seed: of the split ``"fifth"``.

    Raises:
        CrossmodError: no such split or subject.
    """
    if not isinstance(test, str):
        tested = set()
        for word in map(str, test):
            subjects = {scan.subject for scan in scans if _is_meant(scan, word)}
            if not subjects:
                raise CrossmodError(f"test subject {word!r} has no scan in the data set: correct --test")
            tested |= subjects
        return tested
    if test == "labelled-target":
        return {scan.subject for scan in scans if scan.modality in target and scan.label is not None}
    if test == "none":
        return set()
    if test == "fifth":
        tested = set()
        for modality in dict.fromkeys(scan.modality for scan in scans):
            subjects = sorted({s.subject for s in scans if s.modality == modality and s.label is not None})
            # A subject scanned in several modalities counts for all of them.
            drawn = [name for name in _shuffled(subjects, seed) if name not in tested]
            wanted = round(len(subjects) / 5) - len(tested & set(subjects))
            tested |= set(drawn[: max(0, wanted)])
        return tested
    if test not in splits:
        raise CrossmodError(f"split {test!r} is not one of {[*splits, *SPLITS]}: correct --split")
    return {scan.subject for scan in scans if splits[test](scan)}


def _shuffled(names: Sequence[str], seed: int) -> list[str]:
    return [names[index] for index in np.random.default_rng(seed).permutation(len(names))]


def _is_meant(scan: Scan, word: str) -> bool:
    """Whether a word of ``--test`` names a scan: its subject or number, its own name, or a pattern of name or file."""
    if word in (scan.subject, _number(scan.subject), scan.name):
        return True
    if not re.search(r"[*?[]", word):
        return False
    file = scan.image.where if isinstance(scan.image, Deferred) else scan.image
    return fnmatchcase(scan.name, word) or (isinstance(file, Path) and file.resolve().match(word))


def _number(subject: str) -> str | None:
    found = re.search(r"(\d+)$", subject)
    return str(int(found[1])) if found else None
