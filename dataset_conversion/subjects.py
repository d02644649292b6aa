"""Whose scan it is, from the names of the scans: scans of one subject must not be divided between training and test."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from nnunet_crossmod.errors import CrossmodError

from .raw_dataset import Scan

__all__ = ["subject_by_pattern", "subject_warnings", "subjects_by_name"]

_WORD = re.compile(r"[^_\-\s]+")
_IDENTIFIER = re.compile(r"(?<![a-z])(?:patient|pat|subject|subj|sub|case)[-_ ]?\d+[^_\-\s]*", re.IGNORECASE)
_MANY_SCANS, _LARGE_SHARE = 4, 0.25


def subjects_by_name(names: Sequence[str], modality: str) -> dict[str, str]:
    """The subject of every scan of a modality: its name as far as the first word that tells scans apart.

    That is ``patient002`` of ``patient002_frame01``, ``subject3`` of ``subject3_DE``, ``sub-01`` of ``sub-01_ses-2``,
    ``t2_05`` of ``t2_05``: the words after the identifier (time points, sequences, frames) do not count. The identifier
    is a word such as ``patient002``; else the first word with a digit that the names do not share; else the whole name.

    Args:
        names: the names of all scans of the modality.
        modality: its name, which is no identifier (``T2``).

    Returns:
        name → subject.
    """
    words = {name: list(_WORD.finditer(name)) for name in names}
    numbered = [set(enumerate(word.group() for word in matches)) for matches in words.values()]
    shared = set.intersection(*numbered) if len(numbered) > 1 else set()

    def subject(name: str) -> str:
        if match := _IDENTIFIER.search(name):
            return name[: match.end()]
        for place, word in enumerate(words[name]):
            text = word.group()
            if re.search(r"\d", text) and (place, text) not in shared and text.lower() != modality.lower():
                return name[: word.end()]
        return name

    return {name: subject(name) for name in names}


def subject_by_pattern(pattern: re.Pattern[str], name: str, where: str) -> str:
    """The subject of a scan by a regular expression: what matches, or what its group named ``subject`` matches.

    Args:
        pattern: the expression; other groups do not count.
        name: the name of the scan.
        where: its file, for the message.

    Raises:
        CrossmodError: nothing matches.
    """
    match = pattern.search(name)
    subject = match and (match["subject"] if "subject" in pattern.groupindex else match[0])
    if not subject:
        raise CrossmodError(f'{where}: "subject" ({pattern.pattern}) finds nothing in {name!r}: correct it')
    return subject


def subject_warnings(scans: Sequence[Scan]) -> list[str]:
    """What is doubtful about the subjects of scans, one line each.

    Args:
        scans: the scans of the data set.
    """
    warnings = []
    for modality in dict.fromkeys(scan.modality for scan in scans):
        subjects = Counter(scan.subject for scan in scans if scan.modality == modality)
        warnings += _shared_subject(subjects, modality)
        warnings += _divided_subject(list(subjects))
    return warnings


def _shared_subject(subjects: Counter[str], modality: str) -> list[str]:
    subject, number = subjects.most_common(1)[0]
    total = subjects.total()
    if number < _MANY_SCANS or number < _LARGE_SHARE * total:
        return []
    return [
        f"{number} of {total} {modality} scans are of one subject, {subject!r}: if they are of several people, say "
        "with --subject what of a name is the subject"
    ]


def _divided_subject(subjects: Sequence[str]) -> list[str]:
    """Subjects such as ``anna_pre`` and ``anna_post``, beside ``bert_pre``: probably one person."""
    suffixes: dict[str, dict[str, str]] = {}
    for subject in subjects:
        words = list(_WORD.finditer(subject))
        if len(words) > 1:
            suffixes.setdefault(subject[: words[-2].end()], {})[words[-1].group()] = subject
    uses = Counter(suffix for same_prefix in suffixes.values() for suffix in same_prefix)
    for prefix, same_prefix in suffixes.items():
        recurring = [subject for suffix, subject in same_prefix.items() if uses[suffix] > 1]
        if len(same_prefix) > 1 and (len(recurring) > 1 or _IDENTIFIER.search(prefix)):
            first, second = list(same_prefix.values())[:2]
            return [
                f"{first} and {second} differ only in their last word, yet are different subjects, so one may train "
                "while the other is tested: if they are one person, say with --subject what of a name is the subject"
            ]
    return []
