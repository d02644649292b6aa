"""Who trains and who tests: test subjects, and what training may see of each scan."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeAlias

import numpy as np

from nnunet_crossmod.errors import CrossmodError

from .raw_dataset import Deferred, Scan

__all__ = [
    "GENERAL_SPLITS",
    "NamedSplits",
    "TestChoice",
    "annotate_shots",
    "annotate_sources",
    "choose_test_subjects",
    "resolve_roles",
]

GENERAL_SPLITS = {
    "labelled-target": "subjects with a labelled target scan",
    "fifth": "a random fifth of the labelled subjects of each modality (seed 12345)",
    "none": "no test subjects",
}

NamedSplits: TypeAlias = Mapping[str, Callable[[Scan], bool]]
TestChoice: TypeAlias = str | Sequence[int | str]
"""The name of a split; or names, numbers or patterns of subjects and scans."""


def resolve_roles(
    source: Sequence[str] | None,
    target: Sequence[str] | None,
    default_source: Sequence[str],
    default_target: Sequence[str],
    known: Sequence[str],
) -> tuple[list[str], list[str]]:
    """The modalities of each role: those named; the other role keeps its defaults, or what is left of them.

    Args:
        source: those named, or None.
        target: likewise.
        default_source: where none are named.
        default_target: likewise.
        known: all modalities.

    Raises:
        CrossmodError: a modality in both roles, or none left for one.
    """
    source = list(source or [name for name in default_source if name not in (target or ())])
    source = source or [name for name in known if name not in (target or ())]
    target = list(target or [name for name in default_target if name not in source])
    target = target or [name for name in known if name not in source]
    for flag, names in (("--source", source), ("--target", target)):
        if not names:
            raise CrossmodError(f"no modality is left to be the {flag[2:]}: name it with {flag}")
    if both := [name for name in source if name in target]:
        raise CrossmodError(f"modality {both[0]!r} is source and target: name each once, with --source or --target")
    return source, target


def choose_test_subjects(
    scans: Sequence[Scan], target: Sequence[str], test: TestChoice, splits: NamedSplits, seed: int
) -> set[str]:
    """The test subjects.

    Args:
        scans: all scans; ``label`` says which are labelled.
        target: the target modalities.
        test: a named split; or subjects by name or by the number at their end, scans by name, or patterns (``t2_1*``,
            ``check/*``) of scan names or image files.
        splits: the named splits of the data set, beside the general ones.
        seed: of the split ``"fifth"``.

    Raises:
        CrossmodError: no such split, subject or scan.
    """
    if not isinstance(test, str):
        return set().union(*(_subjects_meant(scans, str(word)) for word in test))
    if test == "labelled-target":
        return {scan.subject for scan in scans if scan.modality in target and scan.label is not None}
    if test == "none":
        return set()
    if test == "fifth":
        return _random_fifth(scans, seed)
    if test not in splits:
        raise CrossmodError(f"split {test!r} is not one of {[*splits, *GENERAL_SPLITS]}: correct --split")
    return {scan.subject for scan in scans if splits[test](scan)}


def annotate_sources(
    scans: Sequence[Scan], source: Sequence[str], structures_of: Mapping[str, Sequence[str]] | None = None
) -> tuple[list[Scan], list[str]]:
    """Let training see the labels of the source scans.

    Args:
        scans: all scans, test scans marked.
        source: the source modalities; their training scans without labels are left out.
        structures_of: modality → structures it is annotated for; given where every modality, target or not, is
            annotated for its own.

    Returns:
        The scans that remain, and what was left out, one line per modality.
    """
    kept: list[Scan] = []
    unlabelled: dict[str, list[str]] = {}
    for scan in scans:
        if scan.test:
            kept.append(scan)
        elif structures_of is not None and scan.label is not None:
            kept.append(replace(scan, annotated=tuple(structures_of[scan.modality])))
        elif scan.modality not in source:
            kept.append(scan)
        elif scan.label is not None:
            kept.append(replace(scan, annotated="all"))
        else:
            unlabelled.setdefault(scan.modality, []).append(scan.name)
    return kept, [
        f"{len(names)} source scans of {modality} without labels: {', '.join(names)}"
        for modality, names in unlabelled.items()
    ]


def annotate_shots(scans: Sequence[Scan], shots: Mapping[str, int], seed: int) -> list[Scan]:
    """Let training see the labels of a few scans of a modality (few-shot adaptation).

    Args:
        scans: the scans of the data set.
        shots: modality → how many of its labelled training scans to annotate in full.
        seed: decides which ones.

    Returns:
        All scans in their order, the chosen ones annotated ``"all"``.

    Raises:
        CrossmodError: fewer labelled training scans than asked for.
    """
    chosen: set[str] = set()
    for modality, wanted in sorted(shots.items()):
        names = sorted(
            scan.name for scan in scans if scan.modality == modality and scan.label is not None and not scan.test
        )
        if not 0 <= wanted <= len(names):
            raise CrossmodError(
                f"{wanted} annotated {modality} scans were asked for, but {len(names)} of its training scans have "
                "labels: ask for fewer, or take labelled scans out of the test set"
            )
        chosen |= set(_shuffled(names, seed)[:wanted])
    return [replace(scan, annotated="all") if scan.name in chosen else scan for scan in scans]


def _subjects_meant(scans: Sequence[Scan], word: str) -> set[str]:
    """The subjects that a word of ``--test`` names."""
    subjects = {scan.subject for scan in scans if _is_meant(scan, word)}
    if not subjects:
        raise CrossmodError(f"test subject {word!r} has no scan in the data set: correct --test")
    return subjects


def _is_meant(scan: Scan, word: str) -> bool:
    if word in (scan.subject, _number(scan.subject), scan.name):
        return True
    if not re.search(r"[*?[]", word):
        return False
    file = scan.image.where if isinstance(scan.image, Deferred) else scan.image
    return fnmatchcase(scan.name, word) or (isinstance(file, Path) and file.resolve().match(word))


def _number(subject: str) -> str | None:
    match = re.search(r"(\d+)$", subject)
    return str(int(match[1])) if match else None


def _random_fifth(scans: Sequence[Scan], seed: int) -> set[str]:
    drawn: set[str] = set()
    for modality in dict.fromkeys(scan.modality for scan in scans):
        subjects = sorted({scan.subject for scan in scans if scan.modality == modality and scan.label is not None})
        # A subject scanned in several modalities counts for all of them.
        wanted = round(len(subjects) / 5) - len(drawn & set(subjects))
        drawn |= set([name for name in _shuffled(subjects, seed) if name not in drawn][: max(0, wanted)])
    return drawn


def _shuffled(names: Sequence[str], seed: int) -> list[str]:
    return [names[index] for index in np.random.default_rng(seed).permutation(len(names))]
