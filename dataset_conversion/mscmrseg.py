"""MS-CMRSeg 2019: cardiac MR of 45 patients in three sequences, bSSFP (C0), LGE and T2.

Files are ``patient<N>_C0.nii.gz``, ``patient<N>_C0_manual.nii.gz`` and so on, anywhere below the input folder. The
sequences of a patient differ in grid and in the number of slices.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunet_crossmod.errors import CrossmodError

from .raw_dataset import Annotation, Scan, add_common_arguments, annotate_shots, main, read_shots, write_raw_dataset

SEQUENCES = {"C0": "bSSFP", "LGE": "LGE", "T2": "T2"}
LABELS = {"background": 0, "Myo": 1, "LV": 2, "RV": 3}
LABEL_MAP = {200: LABELS["Myo"], 500: LABELS["LV"], 600: LABELS["RV"]}
_FILE = re.compile(r"patient(?P<number>\d+)_(?P<sequence>C0|LGE|T2)(?P<manual>_manual)?\.nii(?:\.gz)?")


def convert(
    input_folder: Path,
    dataset_id: int,
    source: Sequence[str] = ("bSSFP",),
    target: Sequence[str] = ("LGE",),
    *,
    test: str | Sequence[int] = "labelled-target",
    shots: Mapping[str, int] | None = None,
    raw_folder: Path | None = None,
    overwrite: bool = False,
    seed: int = 12345,
) -> Path:
    """Write the data set; see :func:`write_raw_dataset` for the arguments not listed.

    Args:
        input_folder: where the NIfTI files lie, in sub-folders or not.
        dataset_id: 1 to 999.
        source: sequences whose labelled scans are annotated; their other scans are left out.
        target: sequences to adapt to, none annotated.
        test: ``"labelled-target"`` (patients with a labelled target scan), ``"none"``, or patient numbers. All source
            and target scans of a test patient are test scans.
        shots: target sequence → how many of its labelled training scans are annotated all the same.

    Raises:
        CrossmodError: no such files, a label without image, or what :func:`write_raw_dataset` refuses.
    """
    unknown = [name for name in (*source, *target) if name not in SEQUENCES.values()]
    if unknown:
        raise CrossmodError(
            f"sequence {unknown[0]!r} is not one of {list(SEQUENCES.values())}: correct --source or --target"
        )
    images, labels = find_files(input_folder)
    wanted = {key: path for key, path in images.items() if key[1] in (*source, *target)}
    patients = {patient for patient, _ in wanted}
    if test == "labelled-target":
        tested = {patient for patient, sequence in labels if sequence in target}
    else:
        tested = set() if test == "none" else {f"patient{number}" for number in test}
    if absent := sorted(tested - patients):
        raise CrossmodError(f"test patient {absent[0]!r} has no scan in {input_folder}: correct --test")
    scans: list[Scan] = []
    skipped: list[str] = []
    for (patient, sequence), path in wanted.items():
        label, test_scan = labels.get((patient, sequence)), patient in tested
        if sequence in source and label is None and not test_scan:
            skipped.append(path.name)
            continue
        annotated: Annotation = "all" if sequence in source and not test_scan else ()
        scans.append(Scan(path.name.partition(".")[0], sequence, patient, path, label, annotated, test_scan))
    if skipped:
        print(f"Left out {len(skipped)} source scans without labels: {', '.join(skipped)}")
    return write_raw_dataset(
        annotate_shots(scans, shots or {}, seed),
        dataset_id=dataset_id,
        name="MSCMRSeg",
        labels=LABELS,
        label_map=LABEL_MAP,
        modalities=[*source, *target],
        source=source,
        target=target,
        raw_folder=raw_folder,
        overwrite=overwrite,
        description="MS-CMRSeg 2019: short-axis cardiac MR",
        reference="https://zmiclab.github.io/zxh/0/mscmrseg19/",
        seed=seed,
    )


Files = dict[tuple[str, str], Path]


def find_files(folder: Path) -> tuple[Files, Files]:
    """Images and label files below a folder, each by patient and sequence, in the order of the patients' numbers.

    Raises:
        CrossmodError: no image, a file that occurs twice, or a label without image.
    """
    images: Files = {}
    labels: Files = {}
    matches = [(match, path) for path in folder.rglob("patient*") if (match := _FILE.fullmatch(path.name))]
    for match, path in sorted(matches, key=lambda found: (int(found[0]["number"]), str(found[1]))):
        patient, suffix, manual = f"patient{match['number']}", match["sequence"], match["manual"]
        files, key = labels if manual else images, (patient, SEQUENCES[suffix])
        if key in files:
            raise CrossmodError(f"{files[key]} and {path} are the same file of the data set: remove one")
        files[key] = path
    if not images:
        raise CrossmodError(f"{folder} holds no patient<N>_C0.nii.gz, _LGE or _T2 file: check the path")
    if alone := [path for key, path in labels.items() if key not in images]:
        raise CrossmodError(f"{alone[0]} has no image beside it: add {alone[0].name.replace('_manual', '')}")
    return images, labels


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of ``crossmod convert mscmrseg``."""
    add_common_arguments(
        parser, source=["bSSFP"], target=["LGE"], input_help="folder with the patient<N>_*.nii.gz files"
    )
    parser.add_argument(
        "--test",
        nargs="+",
        default=["labelled-target"],
        metavar="PATIENT",
        help='patient numbers, "none", or "labelled-target": those with a labelled target scan (default)',
    )


def run(args: argparse.Namespace) -> None:
    """Carry out ``crossmod convert mscmrseg``."""
    named = args.test if args.test in (["none"], ["labelled-target"]) else None
    if named is None and not all(word.isdigit() for word in args.test):
        raise CrossmodError(f'--test {" ".join(args.test)} is not "labelled-target", "none" or patient numbers')
    convert(
        args.input,
        args.dataset_id,
        args.source,
        args.target,
        test=named[0] if named else [int(word) for word in args.test],
        shots=read_shots(args.shots, args.target),
        overwrite=args.overwrite,
    )


if __name__ == "__main__":
    main(__doc__, add_arguments, run)
