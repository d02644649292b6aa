"""What a conversion is about to write: which scan is of which subject and modality, and what it is used for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nnunet_crossmod.raw.scan_listing import natural_order

from .raw_dataset import RawDataset, Scan

__all__ = ["preview_table", "print_preview"]

_MOST_ROWS = 60


def print_preview(dataset: RawDataset, warnings: Sequence[str] = ()) -> None:
    """Print the preview of a data set, then what is doubtful about it."""
    print(preview_table(dataset))
    for warning in warnings:
        print(f"Warning: {warning}")


def preview_table(dataset: RawDataset) -> str:
    """One row per scan, by subject; of a large data set, the first scans of every modality and role.

    Args:
        dataset: what is about to be written.
    """
    import pandas as pd  # here: --help must not wait for it

    scans = sorted(dataset.scans, key=lambda scan: (natural_order(scan.subject), natural_order(scan.name)))
    rows = [(scan.name, scan.subject, scan.modality, role_of(scan, dataset)) for scan in scans]
    table = pd.DataFrame(rows, columns=["scan", "subject", "modality", "role"])
    groups = table.groupby(["modality", "role"], sort=False)
    if len(table) > _MOST_ROWS:
        table = groups.head(_MOST_ROWS // len(groups))
    lines = [f"  {line}" for line in table.sort_index().to_string(index=False).splitlines()]
    if len(table) < len(rows):
        lines.append(f"  … and {len(rows) - len(table)} more")
    subjects = len({scan.subject for scan in dataset.scans})
    tested = sum(scan.test for scan in dataset.scans) or "none"
    return "\n".join([f"{dataset.name}: {len(rows)} scans of {subjects} subjects, {tested} for the test", *lines])


def problem_table(dataset: RawDataset, wrong: Mapping[str, str], general: Sequence[str]) -> str:
    """One row per scan with what is wrong with it, then what is wrong besides.

    Args:
        dataset: what would be written.
        wrong: scan → what is wrong with it.
        general: what is wrong with other files, or with the data set.
    """
    scans = sorted(dataset.scans, key=lambda scan: (scan.name not in wrong, scan.modality, natural_order(scan.name)))
    width = max((len(scan.name) for scan in scans), default=0)
    lines = [f"  {scan.name:{width}}  {scan.modality}  {wrong.get(scan.name, 'in order')}" for scan in scans]
    besides = ["Besides:", *(f"  {problem}" for problem in general)] if general else []
    return "\n".join([f"{dataset.name}: {len(wrong)} of {len(scans)} scans cannot be used", *lines, *besides])


def role_of(scan: Scan, dataset: RawDataset) -> str:
    """What a scan is used for: ``source, annotated``, ``target``, ``target, test``."""
    words = ["source" if scan.modality in dataset.source else "target"]
    if scan.test:
        words.append("test")
    elif scan.annotated:
        words.append("annotated" if scan.annotated == "all" else f"annotated for {', '.join(scan.annotated)}")
    return ", ".join(words)
