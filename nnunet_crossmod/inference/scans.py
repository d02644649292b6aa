"""The new scans of a folder: which files are a case, and of which modality it is."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from nnunet_crossmod.errors import CrossmodError, did_you_mean
from nnunet_crossmod.paths import check_output_folder
from nnunet_crossmod.raw.modality_channel import CHANNEL_NAME

__all__ = [
    "assign_modalities",
    "check_replaceable",
    "find_cases",
    "known_modality",
    "modalities_of",
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
    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    if skip_modality_channel:
        files = [file for file in files if not file.name.endswith(f"_{channels:04d}{ending}")]
    for file in files:
        if file.name.lower().endswith(_IMAGE_ENDINGS) and not file.name.endswith(ending):
            raise CrossmodError(
                f"{file} does not end in {ending} as the data set's files do: convert it, or move it away"
            )
    stems = {file.name.removesuffix(ending): file for file in files if file.name.endswith(ending)}
    if not stems:
        raise CrossmodError(f"input folder {folder} holds no *{ending} file: check the path")
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
