"""The round trip: an exported model in an environment that has nnU-Net, but not this package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_crossmod.cli import main

pytestmark = pytest.mark.slow
MakeModel = Callable[..., Path]

BLOCK = """
import sys

class Block:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] == "nnunet_crossmod":
            raise ModuleNotFoundError("not installed here: " + name, name=name)

sys.meta_path.insert(0, Block)
"""


class StockEnvironment:
    """Python with the packages that run these tests, less this one.

    The site-packages of the running environment are on its path, but their ``.pth`` files are not read, so an editable
    install is not seen; an ordinary one is kept from being imported. Nothing is downloaded.
    """

    def __init__(self, root: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root / "venv")], check=True)
        self.root = root
        self.python = root / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
        told = [str(self.python), "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]
        site = Path(subprocess.run(told, capture_output=True, text=True, check=True).stdout.strip())
        packages = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
        (site / "packages.pth").write_text("\n".join([*packages, "import no_crossmod", ""]))
        (site / "no_crossmod.py").write_text(BLOCK)
        (root / "results").mkdir()

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command of nnU-Net, or ``python -c``."""
        if words[0] != "python":
            (found,) = entry_points(group="console_scripts", name=words[0])
            script = self.root / f"{words[0]}.py"
            script.write_text(
                f"from {found.module} import {found.attr}\nif __name__ == '__main__':\n    {found.attr}()\n"
            )
            words = (str(script), *words[1:])
        else:
            words = words[1:]
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("nnUNet", "PYTHON"))}
        return subprocess.run(
            [str(self.python), *words],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.root,
            env={**inherited, "nnUNet_results": str(self.root / "results")},
        )


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> StockEnvironment:
    return StockEnvironment(tmp_path_factory.mktemp("stock"))


def test_this_package_is_really_not_there(stock: StockEnvironment) -> None:
    done = stock.run("python", "-c", "import nnunetv2; print('nnU-Net'); import nnunet_crossmod")
    assert done.returncode != 0
    assert done.stdout.strip() == "nnU-Net"
    assert "ModuleNotFoundError" in done.stderr
    spec = stock.run("python", "-c", "import sys; print([p for p in sys.path if 'editable' in p.lower()])")
    assert spec.stdout.strip() == "[]"


def scan_of(dataset: Path, nnunet: dict[str, Path], folder: Path) -> Path:
    folder.mkdir()
    scan = next((nnunet["nnUNet_raw"] / dataset.name / "imagesTs").glob("*lge_0000.nii.gz"))
    shutil.copy(scan, folder / "new_0000.nii.gz")
    return folder


def labels(file: Path) -> Any:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


@pytest.mark.parametrize(("configuration", "folds"), [("2d", (0, 1)), ("3d_fullres", (0,))])
def test_the_round_trip(
    configuration: str,
    folds: tuple[int, ...],
    stock: StockEnvironment,
    make_model: MakeModel,
    dataset: Path,
    nnunet: dict[str, Path],
    tmp_path: Path,
) -> None:
    folder = make_model(configuration=configuration, folds=folds)
    scans = scan_of(dataset, nnunet, tmp_path / "scans")
    chosen = ["-f", *map(str, folds)]
    model = ["-m", "lge", "--model-folder", str(folder), *chosen]
    # the command in a process of its own: it takes PyTorch's threads, and others read and write for it
    program = [sys.executable, "-m", "nnunet_crossmod.cli"]
    workers = ["-npp", "1", "-nps", "1"] if configuration == "2d" else ["-npp", "0", "-nps", "0"]
    options = ["-device", "cpu", "--save_probabilities", *workers]
    where = ["predict", "-i", str(scans), "-o", str(tmp_path / "mine")]
    done = subprocess.run([*program, *where, *model, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    assert main(["export", *model, "-o", str(tmp_path / "model.zip"), "--as-dataset", "Dataset321_Round"]) == 0
    done = stock.run("nnUNetv2_install_pretrained_model_from_zip", str(tmp_path / "model.zip"))
    assert done.returncode == 0, done.stdout + done.stderr
    where = ["-i", str(scans), "-o", str(tmp_path / "theirs"), "-d", "321", "-c", configuration, *chosen]
    done = stock.run("nnUNetv2_predict", *where, "-p", "nnUNetPlans_tiny", *options)
    assert done.returncode == 0, done.stdout + done.stderr

    mine, theirs = (labels(tmp_path / place / "new.nii.gz") for place in ("mine", "theirs"))
    assert len(np.unique(mine)) > 1
    np.testing.assert_array_equal(mine, theirs)
    told = [np.load(tmp_path / place / "new.npz")["probabilities"] for place in ("mine", "theirs")]
    # nnU-Net keeps logits in half precision: the last bit of a sum may round to the next of its steps
    apart = np.abs(told[0] - told[1])
    assert apart.max() < 5e-3
    assert (apart > 1e-5).mean() < 0.01


def test_the_installed_model_can_be_fine_tuned_from(make_model: MakeModel, tmp_path: Path) -> None:
    """nnU-Net's ``-pretrained_weights`` takes the checkpoint."""
    import torch
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    folder = make_model()
    model = ["-m", "lge", "--model-folder", str(folder)]
    assert main(["export", *model, "-o", str(tmp_path / "model.zip")]) == 0
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        archive.extractall(tmp_path)
    file = next(tmp_path.rglob("checkpoint_final.pth"))
    content = torch.load(file, weights_only=True)
    plans = PlansManager(content["init_args"]["plans"])
    network = nnUNetTrainer.build_network_architecture(plans, plans.get_configuration("2d"), 1, 4)
    load_pretrained_weights(network, str(file))
    name = "encoder.stages.0.0.convs.0.norm.weight"
    assert torch.equal(network.state_dict()[name], content["network_weights"][name])
