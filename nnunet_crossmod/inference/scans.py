"""The new scans of a folder: which files are a case, and of which modality it is."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import SimpleITK as sitk

from nnunet_crossmod.errors import CrossmodError, did_you_mean
from nnunet_crossmod.paths import check_output_folder
from nnunet_crossmod.raw.image_files import axis_codes, quiet_readers
from nnunet_crossmod.raw.modality_channel import CHANNEL_NAME
from nnunet_crossmod.raw.scan_listing import files_below, is_hidden

__all__ = [
    "assign_modalities",
    "check_replaceable",
    "find_cases",
    "known_modality",
    "modalities_of",
    "orientation_warnings",
    "unused_files",
]

_IMAGE_ENDINGS = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd", ".gipl", ".png", ".bmp", ".tif", ".tiff", ".dcm")


def modalities_of(args: argparse.Namespace, cases: Iterable[str], known: Sequence[str], where: str) -> dict[str, str]:
    """The modality of every case, from the arguments ``-m`` and ``--modalities``.

    Args:
        args: the parsed command line.
        cases: the names of the cases.
        known: the modalities there are.
        where: who knows them, for the message.

    Raises:
        CrossmodError: an unknown modality, or a case that has none or two.
    """
    if args.modalities is not None:
        return _from_table(args.modalities, cases, known, where)
    return assign_modalities(args.modality, cases, known, where)


def assign_modalities(words: Sequence[str], cases: Iterable[str], known: Sequence[str], where: str) -> dict[str, str]:
    """The modality of every case: that of all of them (``["LGE"]``) or by name (``["bSSFP=*_C0", "LGE=*_LGE"]``).

    Raises:
        CrossmodError: an unknown modality, or a case that no pattern fits, or several of different modalities.
    """
    if len(words) == 1 and (words[0] in known or "=" not in words[0]):
        return dict.fromkeys(cases, known_modality(words[0], known, where))
    patterns = []
    for word in words:
        modality, equals, pattern = word.partition("=")
        if not equals or not pattern:
            raise CrossmodError(f"-m {word!r}: several modalities take a pattern each, as {word}=*_{word}")
        patterns.append((known_modality(modality, known, where), pattern))
    assigned = {}
    for case in cases:
        fitting = {modality for modality, pattern in patterns if fnmatchcase(case, pattern)}
        if len(fitting) != 1:
            problem = f"the patterns of {' and '.join(sorted(fitting))} fit" if fitting else "no pattern of -m fits"
            raise CrossmodError(f"case {case!r}: {problem}: change the patterns, or name it in a --modalities table")
        assigned[case] = fitting.pop()
    return assigned


def _from_table(file: Path, cases: Iterable[str], known: Sequence[str], where: str) -> dict[str, str]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            rows = csv.DictReader(opened, skipinitialspace=True)
            if rows.fieldnames is None or not {"case", "modality"} <= set(rows.fieldnames):
                raise CrossmodError(f"{file}: the first line must name the columns case,modality")
            table: dict[str, str] = {}
            for row in rows:
                case, modality = (row["case"] or "").strip(), (row["modality"] or "").strip()
                known_modality(modality, known, f"{where} ({file}, case {case!r})")
                if table.setdefault(case, modality) != modality:
                    raise CrossmodError(f"{file} gives case {case!r} two modalities, {table[case]} and {modality}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CrossmodError(f"{file} cannot be read ({error}): check the path; save it as CSV in UTF-8") from error
    missing = [case for case in cases if case not in table]
    if missing:
        raise CrossmodError(
            f"{file} does not name case {missing[0]!r} (of {len(missing)}): add a row with its modality"
        )
    return {case: table[case] for case in cases}


def known_modality(modality: str, known: Sequence[str], where: str) -> str:
    """The modality itself, if it is known.

    Raises:
        CrossmodError: it is not.
    """
    if modality not in known:
        raise CrossmodError(
            f"modality {modality!r} is not one of {list(known)}, which {where} names{did_you_mean(modality, known)}"
        )
    return modality


def find_cases(
    folder: Path, ending: str, channels: int, *, skip_modality_channel: bool = False
) -> dict[str, list[Path]]:
    """Case → its image channels in order.

    Args:
        folder: holds ``case_0000<ending>``, … (one file a channel), or plain ``case<ending>`` where that is enough.
        ending: of the files.
        channels: image channels of a case, the modality channel not counted.
        skip_modality_channel: pass over files that are the modality channel instead of refusing them.

    Raises:
        CrossmodError: no such folder, a wrong file ending, or a channel that is missing or too many.
    """
    if not folder.is_dir():
        raise CrossmodError(f"input folder {folder} does not exist: check the path")
    files = [file for file in folder.iterdir() if file.is_file() and not is_hidden(file)]
    files.sort(key=lambda file: file.name)
    if skip_modality_channel:
        files = [file for file in files if not file.name.lower().endswith(f"_{channels:04d}{ending}")]
    for file in files:
        if file.name.lower().endswith(_IMAGE_ENDINGS) and not file.name.lower().endswith(ending):
            raise CrossmodError(
                f"{file} does not end in {ending} as the data set's files do: convert it, or move it away"
            )
    stems = {file.name[: -len(ending)]: file for file in files if file.name.lower().endswith(ending)}
    if not stems:
        below = next((file for file in files_below(folder) if file.name.lower().endswith(ending)), None)
        raise CrossmodError(
            f"input folder {folder} holds no *{ending} file: check the path"
            if below is None
            else f"input folder {folder} holds *{ending} files in sub-folders only, as {below.relative_to(folder)}: "
            f"move or link them into one folder, as case{ending}"
        )
    if not any(stem.endswith("_0000") for stem in stems):
        if channels == 1:
            return {stem: [file] for stem, file in stems.items()}
        raise CrossmodError(
            f"{next(iter(stems.values()))}: the data set has {channels} image channels, so files must be named "
            f"case_0000{ending} to case_{channels - 1:04d}{ending}"
        )
    found: dict[str, dict[int, Path]] = {}
    for stem, file in stems.items():
        match = CHANNEL_NAME.fullmatch(stem)
        if not match:
            raise CrossmodError(f"{file} has no channel number but its neighbours have: name it {stem}_0000{ending}")
        numbers = {name[-4:] for name in stems if CHANNEL_NAME.fullmatch(name) and name[:-5] == match["case"]}
        if int(match["channel"]) >= channels and len(numbers) > channels + 1:
            raise CrossmodError(
                f"{file} is channel {int(match['channel'])} of {match['case']!r} by its name, but the data set has "
                f"{channels} image channel(s): if these files are scans of their own, add _0000 to every name, as "
                f"{stem}_0000{ending}"
            )
        if int(match["channel"]) >= channels:
            raise CrossmodError(
                f"{file} is channel {int(match['channel'])}, but the data set has {channels} image channel(s) before "
                "the modality channel, which is added here: take it out of the input folder"
            )
        found.setdefault(match["case"], {})[int(match["channel"])] = file
    for case, numbered in found.items():
        for channel in range(channels):
            if channel not in numbered:
                raise CrossmodError(f"case {case!r} lacks {folder / f'{case}_{channel:04d}{ending}'}: add that channel")
    return {case: [numbered[channel] for channel in range(channels)] for case, numbered in found.items()}


def unused_files(folder: Path, cases: Mapping[str, Sequence[Path]]) -> str:
    """A line on the files below a folder that no case uses; nothing where there are none."""
    used = {file.resolve() for files in cases.values() for file in files}
    unused = [str(file.relative_to(folder)) for file in files_below(folder) if file.resolve() not in used]
    if not unused:
        return ""
    return f"{len(unused)} files of {folder} are not used: {', '.join(unused[:5])}{' …' if len(unused) > 5 else ''}"


def orientation_warnings(
    cases: Mapping[str, Sequence[Path]], modalities: Mapping[str, str], trained: Mapping[str, Sequence[str]]
) -> list[str]:
    """Scans whose axes run otherwise than those of any training scan of their modality, a line per modality.

    Args:
        cases: case → its image channels.
        modalities: case → its modality.
        trained: modality → orientations of its training scans, as ``LPS``; those that are absent are not compared.
    """
    strange: dict[str, list[str]] = {}
    for case, files in cases.items():
        known = trained.get(modalities[case])
        axes = _axes(files[0]) if known else None
        if axes is not None and known is not None and axes not in known:
            strange.setdefault(modalities[case], []).append(f"{case} {axes}")
    return [
        f"the axes of {len(found)} {modality} scans run as in no training scan ({', '.join(trained[modality])}): "
        f"{', '.join(found[:5])}{' …' if len(found) > 5 else ''}; the network never saw them so: turn them, or train "
        "on a data set converted with --reorient"
        for modality, found in strange.items()
    ]


def _axes(file: Path) -> str | None:
    """The orientation in a file's header; None where it cannot be read, which is told when the scan is."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    try:
        with quiet_readers():
            reader.ReadImageInformation()
    except RuntimeError:
        return None
    return axis_codes(reader) if reader.GetDimension() == 3 else None


def check_replaceable(output: Path, source: Path, ending: str, overwrite: bool) -> None:
    """Refuse an output folder whose replacement would lose the input or files of another origin.

    Args:
        output: the folder to write, resolved.
        source: the input folder, resolved.
        ending: of the files.
        overwrite: whether channels of an earlier call may be replaced.

    Raises:
        CrossmodError: it cannot be written, or holds what must not be lost.
    """
    if output == source or output in source.parents:
        raise CrossmodError(f"output folder {output} is or holds the input folder: name another one")
    check_output_folder(output)
    present = sorted(output.iterdir()) if output.exists() else []
    if present and not overwrite:
        raise CrossmodError(
            f"output folder {output} already holds {present[0].name}: name another one, or add --overwrite"
        )
    for path in present:
        if not (path.name.endswith(ending) and CHANNEL_NAME.fullmatch(path.name.removesuffix(ending))):
            raise CrossmodError(
                f"output folder {output} holds {path.name}, which is no channel of a case: name another folder"
            )
