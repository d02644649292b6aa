"""The wheel and the editable install give nnU-Net the same trainers and site-packages one name."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from nnunet_crossmod.paths import trainer_names, trainers_folder

ROOT = Path(__file__).resolve().parents[1]
FIND = """
import os, sys
from nnunet_crossmod.paths import trainer_names, trainers_folder
os.environ["nnUNet_extTrainer"] = str(trainers_folder())
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
names = trainer_names()
for name in names:
    found = recursive_find_trainer_class_by_name(name)
    assert found.__name__ == name
print("FOUND", sys.modules["nnunet_crossmod"].__file__, *names)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_wheel_has_one_top_level_name_and_all_files(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"nnunet_crossmod"}
    for folder, inside in (("trainers", "trainers"), ("dataset_conversion", "dataset_conversion")):
        for file in (ROOT / folder).glob("*.py"):
            assert f"nnunet_crossmod/{inside}/{file.name}" in names
    assert "nnunet_crossmod/py.typed" in names
    assert "nnunet_crossmod/report/page.html.jinja" in names
    assert any(name.endswith("entry_points.txt") for name in names)


@pytest.mark.slow
def test_nnunet_finds_every_trainer_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    # -S and an explicit path would lose nnU-Net; the wheel simply comes first
    code = f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); sys.meta_path = "
    code += "[f for f in sys.meta_path if 'Editable' not in getattr(f, '__name__', '')]\n" + FIND
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    found = done.stdout.splitlines()[-1].split()
    assert found[0] == "FOUND"
    assert found[1].startswith(str(tmp_path))
    assert found[2:] == trainer_names()


@pytest.mark.slow
def test_nnunet_finds_every_trainer_from_this_install(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FIND], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split()[2:] == trainer_names()


def test_the_trainers_of_this_release_are_there() -> None:
    methods = {"AICLTrainer", "AdvEntTrainer", "CISFATrainer", "EAMTrainer", "GLUATrainer", "MPSCLTrainer"}
    baselines = {"SourceOnlyTrainer", "JointTrainer", "MeanTeacherTrainer", "TargetSupervisedTrainer"}
    assert methods | baselines == set(trainer_names())
    assert trainers_folder().name == "trainers"
