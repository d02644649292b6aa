"""Say what is installed, what nnU-Net finds, what is wrong and how to mend it."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import os
import platform
from pathlib import Path

from nnunet_crossmod.paths import trainer_names, trainers_folder

__all__ = ["add_arguments", "examine", "run"]

PACKAGES = ("nnunet-crossmod", "nnunetv2", "torch", "monai", "SimpleITK", "numpy", "batchgenerators", "acvl-utils")
TRAINERS_VARIABLE = "nnUNet_extTrainer"
FOLDERS = {
    "nnUNet_raw": "raw data sets",
    "nnUNet_preprocessed": "plans and preprocessed cases",
    "nnUNet_results": "trained models",
}


def add_arguments(_: argparse.ArgumentParser) -> None:
    """There are none."""


def run(_: argparse.Namespace) -> int:
    """Carry out ``crossmod doctor``."""
    return 1 if examine() else 0


class _Findings:
    """Prints findings as they come and keeps the complaints."""

    def __init__(self) -> None:
        self.complaints: list[str] = []

    def good(self, what: str, finding: str) -> None:
        print(f"  ok  {what:<24} {finding}", flush=True)

    def bad(self, what: str, finding: str, remedy: str) -> None:
        print(f"  !!  {what:<24} {finding}", flush=True)
        self.complaints.append(remedy)


def examine() -> list[str]:
    """Print the findings; return the complaints, each with its remedy."""
    findings = _Findings()
    for title, check in {
        "Versions": _check_versions,
        "Folders": _check_folders,
        "Trainers that nnU-Net finds": _check_trainers,
        "Device": _check_device,
    }.items():
        print(title, flush=True)  # PyTorch takes seconds to import
        check(findings)
    if findings.complaints:
        print("\nTo mend:")
        for complaint in findings.complaints:
            print(f"  - {complaint}")
    else:
        print("\nAll well. Next: crossmod demo, or with scans of your own crossmod convert folders --help")
    return findings.complaints


def _check_versions(findings: _Findings) -> None:
    findings.good("python", platform.python_version())
    for package in PACKAGES:
        try:
            findings.good(package, importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            findings.bad(package, "missing", f"{package} is not installed: pip install {package}")
    if any(remedy.startswith("nnunetv2") for remedy in findings.complaints):
        return
    version = tuple(int(part) for part in importlib.metadata.version("nnunetv2").split(".")[:3] if part.isdigit())
    if not (2, 8, 1) <= version < (2, 9):
        findings.bad("nnunetv2", "not supported", 'wrong version of nnU-Net: pip install "nnunetv2>=2.8.1,<2.9"')


def _check_folders(findings: _Findings) -> None:
    for variable, content in FOLDERS.items():
        value = os.environ.get(variable)
        if value is None:
            findings.bad(variable, f"not set ({content})", f"{variable} is not set: export {variable}=/a/folder")
        elif not Path(value).is_dir():
            findings.bad(variable, f"{value} does not exist", f"{variable} names no folder: mkdir -p {value}")
        elif not os.access(value, os.W_OK):
            findings.bad(variable, f"{value} cannot be written", f"{variable}: allow writing into {value}")
        else:
            findings.good(variable, value)


def _check_trainers(findings: _Findings) -> None:
    variable = os.environ.get(TRAINERS_VARIABLE)
    wanted = trainers_folder()
    if variable is None or str(wanted) not in [str(Path(p).resolve()) for p in variable.split(os.pathsep) if p.strip()]:
        findings.bad(
            TRAINERS_VARIABLE,
            variable or "not set",
            'nnU-Net does not look where the trainers are: export nnUNet_extTrainer="$(crossmod trainers-dir)"',
        )
        return
    try:
        from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
    except ImportError as error:
        findings.bad("nnunetv2", "cannot be imported", f"nnunetv2 cannot be imported ({error}): reinstall it")
        return

    for name in trainer_names():
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                recursive_find_trainer_class_by_name(name)
        except Exception as error:
            findings.bad(name, "not found", f"nnU-Net does not find {name}: {error}")
        else:
            findings.good(name, f"nnUNetv2_train … -tr {name}")


def _check_device(findings: _Findings) -> None:
    try:
        import torch
    except ImportError as error:
        findings.bad("torch", "cannot be imported", f"torch cannot be imported ({error}): reinstall it")
        return
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            findings.good(f"cuda:{index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    else:
        findings.good(
            "cuda", "none: add -device cpu to nnUNetv2_train and nnUNetv2_predict; crossmod finds that by itself"
        )
    findings.good("cpu", f"{os.cpu_count()} cores")
