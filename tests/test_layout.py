"""Imports go one way and the code is clean."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "nnunet_crossmod"
ALLOWED = {
    "losses": {"losses"},
    "nn": {"nn", "losses", "errors"},
    "raw": {"raw", "errors"},
    "data": {"data", "raw", "nn", "losses", "errors"},
    "pictures": {"pictures", "data", "raw", "nn", "losses", "errors"},
    "training": {
        "training",
        "pictures",
        "data",
        "raw",
        "nn",
        "losses",
        "errors",
        "paths",
        "plans",
        "trained_on",
        "precision",
        "pseudo_labels",
        "prototypes",
        "weights",
    },
    "inference": {"inference", "data", "raw", "nn", "losses", "errors", "paths", "plans", "weights"},
    "evaluation": {"evaluation", "data", "raw", "nn", "losses", "errors", "paths"},
    "report": {
        "report",
        "evaluation",
        "pictures",
        "inference",
        "training",
        "data",
        "raw",
        "nn",
        "losses",
        "errors",
        "paths",
        "pseudo_labels",
        "agreement",
    },
}
HEAVY = {"monai", "matplotlib", "pandas", "sklearn"}


def imports(file: Path) -> list[str]:
    tree = ast.parse(file.read_text())
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    return names + [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]


@pytest.mark.parametrize("part", list(ALLOWED))
def test_imports_go_one_way(part: str) -> None:
    files = list((PACKAGE / part).rglob("*.py"))
    assert files
    for file in files:
        for name in imports(file):
            if name.startswith("nnunet_crossmod."):
                assert name.split(".")[1] in ALLOWED[part], f"{file.name} imports {name}"


def test_losses_import_torch_only() -> None:
    for file in (PACKAGE / "losses").glob("*.py"):
        foreign = (
            {name.split(".")[0] for name in imports(file)} - {"torch", "nnunet_crossmod"} - set(sys.stdlib_module_names)
        )
        assert not foreign, f"{file.name} imports {foreign}"


def test_package_never_imports_trainers() -> None:
    for file in PACKAGE.rglob("*.py"):
        assert not any("trainers" in name.split(".") for name in imports(file)), file


@pytest.mark.parametrize("file", sorted((ROOT / "trainers").glob("*_trainer*.py")), ids=lambda file: file.stem)
def test_trainer_files_hold_no_mechanism(file: Path) -> None:
    text = file.read_text()
    for mechanism in (
        r"\.backward\(",
        "zero_grad",
        r"optimizer\.step",
        "autocast",
        "GradScaler",
        r"torch\.(save|load)",
    ):
        assert not re.search(mechanism, text), mechanism
    assert not any(isinstance(n, ast.ImportFrom) and n.level for n in ast.walk(ast.parse(text))), "relative import"
    assert not HEAVY & {name.split(".")[0] for name in imports(file)}


def run(*command: str) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_lint() -> None:
    run("ruff", "check", ".")


@pytest.mark.slow
def test_format() -> None:
    run("ruff", "format", "--check", ".")


@pytest.mark.slow
def test_types() -> None:
    run("mypy")


def test_readme_and_ci_run_the_same_tests() -> None:
    readme = (ROOT / "README.md").read_text()
    blocks = re.findall(r"<!-- tests -->\n```bash\n(.*?)\n```", readme, flags=re.S)
    assert len(blocks) == 1
    assert "pytest" in blocks[0]
    assert "<!-- tests -->" in (ROOT / ".ci" / "run").read_text()
