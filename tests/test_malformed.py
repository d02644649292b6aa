"""What is malformed is refused in one line, at once, and nothing is written.

All commands run in one process that never imports PyTorch; each must leave every folder as it was.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

RUN = """
import contextlib, io, json, sys, time
from pathlib import Path
from nnunet_crossmod.cli import main

def tree():
    return [(str(path), path.is_file() and path.stat().st_mtime_ns) for path in sorted(Path().rglob("*"))]

before = tree()
for words in json.load(sys.stdin):
    loaded = set(sys.modules)
    out, err = io.StringIO(), io.StringIO()
    began = time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(words)
        except SystemExit as stop:
            code = stop.code
        except BaseException as error:
            code = repr(error)
    seconds = time.process_time() - began
    heavy = sorted({"torch", "nnunetv2"} & (set(sys.modules) - loaded))
    after = tree()
    print(json.dumps([code, err.getvalue(), after == before, heavy, seconds]))
    before = after
"""

BLOCK: dict[str, Any] = {
    "modalities": ["MR", "CT"],
    "source": ["MR"],
    "target": ["CT"],
    "cases": {
        "a_MR": {"modality": "MR", "annotated": "all", "subject": "a"},
        "b_CT": {"modality": "CT", "annotated": [], "subject": "b"},
    },
    "test": {"c_CT": {"modality": "CT", "subject": "c"}},
}
DATASET: dict[str, Any] = {
    "channel_names": {"0": "image", "1": "noNorm"},
    "labels": {"background": 0, "liver": 1, "spleen": 2},
    "numTraining": 2,
    "file_ending": ".nii.gz",
    "crossmod": BLOCK,
}
NETWORK = {"arch_kwargs": {"n_stages": 2, "strides": [[1, 1], [2, 2]], "features_per_stage": [8, 16]}}
PLANS: dict[str, Any] = {
    "plans_name": "nnUNetPlans",
    "dataset_name": "Dataset501_Organs",
    "configurations": {"2d": {"batch_size": 4, "patch_size": [32, 32], "architecture": NETWORK}},
}
MODEL = "AICLTrainer__nnUNetPlans__2d"

BROKEN_BLOCKS: list[tuple[str, Any]] = [
    *[("crossmod", value) for value in (None, [], "MR", 3, {})],
    *[
        (f"crossmod/{key}", value)
        for key in ("modalities", "source", "target")
        for value in (None, [], "MR", {}, 1, ["MR", "MR"], ["PET"], [1], [["MR"]])
    ],
    ("crossmod/modalities", ["MR", "CT", "PET"]),
    ("crossmod/source", ["MR", "CT"]),
    *[("crossmod/cases", value) for value in (None, {}, [], "a_MR", {"a_MR": "MR"}, {"a_MR": None})],
    *[("crossmod/cases/a_MR/modality", value) for value in (None, "PET", "mr", 1, ["MR"], {})],
    *[("crossmod/cases/a_MR/annotated", value) for value in (None, "liver", True, 1, ["kidney"], [1], [["liver"]])],
    *[("crossmod/cases/a_MR/labelled", value) for value in ("no", 0, [], "false", False)],
    *[("crossmod/test", value) for value in ([], "c", {"c_CT": "CT"}, {"c_CT": {}}, {"c_CT": {"modality": "PET"}})],
    *[("crossmod/registered", value) for value in ("no", 1, [])],
    ("labels/liver", [1, 2]),
    *[("labels", value) for value in (None, [], "liver", {"background": 0, "liver": "one"})],
    *[(key, None) for key in ("file_ending", "channel_names")],
]
DESCRIPTION: dict[str, Any] = {
    "name": "Organs",
    "images": {"MR": "mr", "CT": "ct"},
    "label_files": {"MR": "mr_labels"},
    "labels": {"liver": 1},
}
BROKEN_DESCRIPTIONS: list[tuple[str, Any]] = [
    *[
        ("images", value)
        for value in (None, [], "mr", 1, {}, {"MR": "mr"}, {"MR": "mr", "CT": 1}, {"MR": [], "CT": "ct"})
    ],
    *[("images/CT", value) for value in ("nowhere", "ct/*.nii", [["ct"]], "ct/c9*", "scan.txt")],
    *[("label_files", value) for value in ([], "mr_labels", 1, {"PET": "mr_labels"}, {"MR": 1}, {"MR": "nowhere"})],
    *[
        ("labels", value)
        for value in (None, [], "liver", {"liver": "1"}, {"liver": 0}, {"liver": True}, {"liver": 1.5})
    ],
    *[("labels", value) for value in ({"liver": [1, 1]}, {"liver": 1, "spleen": 1}, {"liver": None})],
    *[("labels_of", value) for value in ([], "MR", {"PET": {"liver": 1}}, {"MR": {"liver": "x"}})],
    *[("series", value) for value in ([], "MR", {"PET": "x"})],
    *[
        (flag, value)
        for flag in ("registered", "paired", "partial", "resample_uneven")
        for value in ("yes", 1, None, [])
    ],
    *[("subject", value) for value in ("(", "[a", "zzz", "(?P<subject")],
    *[("source", value) for value in (["PET"], ["MR", "CT"], ["CT"])],
    *[("target", value) for value in (["PET"], ["MR"], ["mr"])],
    *[("name", value) for value in ("a b", "a/b", "", "ä")],
    *[(key, 1) for key in ("imagse", "Labels", "test")],
]
BASES = {
    "inspect": "-d 501 -o sheet.png",
    "configure": "-d 501 --name nnUNetPlans_x",
    "modality-channel": "-i scans -o out -m CT -d 501",
    "train": "501 2d 0 -tr AICLTrainer",
    "predict": "-i scans -o out -m CT -d 501 -c 2d -f 0 -tr AICLTrainer",
    "export": "-m CT -o model.zip -d 501 -c 2d -f 0 -tr AICLTrainer",
    "translate": "-i scans -o out -d 501 -c 2d -f 0 -tr AICLTrainer",
    "evaluate": "-d 501 -p predicted -g references -o metrics",
    "compare": "-d 501 -c 2d -tr SourceOnlyTrainer AICLTrainer -o work",
    "adapt-weights": "-i weights.pth -o start.pth -d 501 -c 2d -tr AICLTrainer",
    "choose": "-d 501 -c 2d -tr AICLTrainer",
    "self-train": "-d 501 -c 2d -tr SourceOnlyTrainer --work work",
    "report": "-d 501 -o report.html --no-embeddings",
    "demo": "-o demo",
    "convert phantom": "-d 502",
    "convert folders": "-d 502 --images MR=mr CT=ct --label-files MR=mr_labels --labels liver=1",
    "convert mmwhs": "-d 502 -i mr",
    "convert mscmrseg": "-d 502 -i mr",
    "convert amos": "-d 502 -i mr",
    "convert tao": "-d 502 -i mr",
    "convert chaos_btcv": "-d 502 -i mr",
    "convert sifa_tfrecords": "-d 502 -i mr",
}
REQUIRED = {
    "inspect": ["-d"],
    "configure": ["-d", "--name"],
    "modality-channel": ["-i", "-o", "-m", "-d"],
    "predict": ["-i", "-o", "-m", "-d", "-c", "-tr"],
    "export": ["-m", "-o", "-d", "-c", "-tr"],
    "translate": ["-i", "-o", "-d", "-c", "-tr"],
    "evaluate": ["-d", "-p", "-g"],
    "compare": ["-d", "-c", "-tr"],
    "report": ["-d"],
    "self-train": ["-d", "-c", "-tr"],
    "adapt-weights": ["-i", "-o", "-d", "-c", "-tr"],
    "choose": ["-d", "-c", "-tr"],
    "convert phantom": ["-d"],
    "convert folders": ["-d", "--images"],
    "convert mmwhs": ["-d", "-i"],
}
CHANGES = {  # of the words above; a value of its own for every case
    "inspect": [
        "-d 999",
        "-d x",
        "-d 0",
        "-d Dataset999_No",
        "-o mr",
        "-o scan.txt/sheet.png",
        "-o sheet",
        "-o sheet.txt",
    ],
    "configure": [
        *["-d x", "-d 999", "-d -1", "-p otherPlans", "--name nnUNetPlans", "--name a__b", "--name a/b", "--name ''"],
        *["--set fpc_weight", "--set =1", "--set", "--preset gpu", "--preset paper", "-b 0", "-b -3", "-b x"],
        *["--patch-size 32", "--patch-size 32 32 32", "--patch-size 31 32", "--patch-size 0 0", "--patch-size a b"],
        *["--patch-size 32 32 -c 3d", "-c 2D", "--patch-size -2 -2", "-tr AICLtrainer", "-tr nnUNetTrainer"],
    ],
    "modality-channel": [
        *["-i nowhere", "-i scan.txt", "-i empty", "-o scans", "-o .", "-o scan.txt", "-o mr", "-m PET", "-m ct"],
        *["-m CT=", "-m CT=*y", "-m CT=* MR=*", "-m CT MR", "-d 999", "-d x", "-o scan.txt/below"],
        *["--modalities table.csv"],
    ],
    "train": ["-p otherPlans", "-tr AICL", "-tr ''", "--c --val", "-num_gpus 0", "-num_gpus x", "-device gpu"],
    "predict": [
        *[
            "-i nowhere",
            "-i scan.txt",
            "-i empty",
            "-o scans",
            "-o scan.txt",
            "-o scan.txt/below",
            "-m PET",
            "-m CT=*y",
        ],
        *["-d 999", "-c 3d_fullres", "-f 1", "-f x", "-f -1", "-tr AICL", "-p otherPlans", "-chk checkpoint_best.pth"],
        *["-step_size 0", "-step_size 2", "-step_size x", "-npp -1", "-nps -1", "-num_parts 0", "-part_id 1"],
        *["-part_id -1", "-device gpu", "--model-folder nowhere", "--modalities nowhere.csv", "-step_size nan"],
    ],
    "export": [
        *["-m PET", "-m ct", "-o model", "-o model.tar", "-o there.zip", "-o mr", "-o scan.txt/model.zip", "-d 999"],
        *["-c 3d_fullres", "-f 3", "-f x", "-tr AICL", "-p otherPlans", "-chk checkpoint_best.pth"],
        *["--as-dataset Organs", "--as-plans a__b", "--as-plans a/b"],
    ],
    "translate": [
        *["-i nowhere", "-i scan.txt", "-o scan.txt", "-o scan.txt/below", "-d 999", "-c 3d_fullres", "-f 3", "-f x"],
        *["-tr AICL", "-p otherPlans", "-chk checkpoint_best.pth", "-step_size 0", "-step_size 2", "-device gpu"],
    ],
    "evaluate": [
        *["-d 999", "-p nowhere", "-p scan.txt", "-g nowhere", "-g empty", "-p empty", "-p halves", "-p sevens"],
        *["-p text", "-o scan.txt", "-o scan.txt/below", "-m PET", "-m ct", "-s kidney", "-s Liver", "-np 0", "-np x"],
        *["--tolerance 0", "--tolerance -1", "--tolerance x", "--tolerance nan", "--ending .mha", "-p other_grid"],
    ],
    "compare": [
        *["-d 999", "-c 3d_fullres", "-c 2D", "-f x", "-f -1", "-f 0 0", "-tr AICL", "-tr ''", "-tr A A", "--jobs 0"],
        *["-tr SourceOnlyTrainer SourceOnlyTrainer", "-p otherPlans", "--seeds -1", "--seeds 0 0", "--seeds x"],
        *["--set gin", "--set =", "--preset gpu", "-o scan.txt", "-o scan.txt/below", "-device gpu", "--tolerance 0"],
        *["--floor X", "--ceiling X", "--against X", "--tolerance -1", "--tolerance nan"],
    ],
    "adapt-weights": [
        *["-i nowhere.pth", "-o scan.txt", "-o mr", "-o scan.txt/start.pth", "-d 999", "-c 3d", "-tr AICL"],
        *["-p otherPlans"],
    ],
    "choose": ["-d 999", "-c 3d", "-tr AICL", "-p otherPlans", "-f x", "--model-folder nowhere"],
    "self-train": [
        *[
            "-f x",
            "-f 0 0",
            "--rounds 0",
            "--until 0",
            "--until 2",
            "--out-id 0",
            "--seeds -1",
            "--jobs 0",
            "--set gin",
        ],
        *["--work scan.txt", "-i scans", "-o out", "-i scans -o scans", "-i scans -o scan.txt", "-device gpu"],
    ],
    "report": ["-d 999", "-d x", "-i nowhere", "-i scan.txt", "-o mr", "-o scan.txt/page.html", "-device gpu"],
    "demo": ["--seed -1", "--seed x", "-c 3d", "-o mr", "-o scan.txt", "-device gpu"],
    "convert phantom": ["-d 0", "-d 1000", "-d x", "-d 501", "--source PET", "--target PET", "--shots x", "--shots -1"],
    "convert folders": [
        *[
            "-d 0",
            "-d 1000",
            "-d x",
            "-d 501",
            "--images MR",
            "--images MR=mr",
            "--images MR= CT=ct",
            "--images =mr CT=ct",
        ],
        *["--images MR=nowhere CT=ct", "--images MR=mr CT=empty", "--label-files PET=mr_labels", "--label-files MR"],
        *["--label-files MR=nowhere", "--labels liver", "--labels liver=x", "--labels liver=0", "--labels liver=1.5"],
        *["--labels liver=1 spleen=1", "--labels liver=", "--labels =1", "--name a/b", "--subject (", "--series MR"],
        *[
            "--series PET=x",
            "--source PET",
            "--source CT",
            "--target PET",
            "--target MR",
            "--test nobody",
            "--split half",
        ],
        *["--shots x", "--shots MR=1", "--shots CT=x", "--json nowhere.json", "--json scan.txt", "--subject zzz"],
        *["--images MR=scan.txt CT=ct"],
    ],
    "convert mmwhs": ["-d 0", "-d x", "-d 501", "-i nowhere", "-i scan.txt", "-i empty", "--source PET", "--split x"],
}
SET_IN_ANY = [*BASES, "doctor", "trainers-dir"]


def changed(content: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with one entry replaced, or without it where the value is None and it is there."""
    content = copy.deepcopy(content)
    *parents, last = path.split("/")
    place = content
    for parent in parents:
        place = place[parent]
    if value is None and last in place:
        del place[last]
    else:
        place[last] = value
    return content


def replaced(words: list[str], change: list[str]) -> list[str]:
    """The words with the flags of a change in place of their own values."""
    flags = {word for word in change if word.startswith("-") and not word[1:].isdigit()}
    kept: list[str] = []
    dropping = False
    for word in words:
        if word.startswith("-"):
            dropping = word in flags or (word == "-m" and "--modalities" in flags) or (word == "-d" and "-l" in flags)
        if not dropping:
            kept.append(word)
    return [*kept, *change]


def without(words: list[str], flag: str) -> list[str]:
    return replaced(words, [flag])[:-1]


def all_cases() -> dict[str, list[str]]:
    """What is wrong → the words of the command."""
    cases: dict[str, list[str]] = {}
    for command in SET_IN_ANY:
        base = [*command.split(), *BASES.get(command, "").split()]
        cases[f"{command}: unknown flag"] = [*base, "--nonsense"]
        cases[f"{command}: word too many"] = [*base, "--", "word"]
    for command, flags in REQUIRED.items():
        for flag in flags:
            cases[f"{command}: no {flag}"] = [*command.split(), *without(BASES[command].split(), flag)]
    for command, changes in CHANGES.items():
        for change in changes:
            words = ["" if word == "''" else word for word in change.split()]
            cases[f"{command}: {change}"] = [*command.split(), *replaced(BASES[command].split(), words)]
    for words in ("501", "501 2d", "999 2d 0 -tr AICLTrainer", "501 3d 0 -tr AICLTrainer", "501 2d x -tr AICLTrainer"):
        cases[f"train {words}"] = ["train", *words.split()]
    for number, (path, value) in enumerate(BROKEN_BLOCKS):
        where = f"block{number}.json"
        what = f"{path} = {value!r}"
        cases[f"modality-channel: {what}"] = f"modality-channel -i scans -o out -m CT --dataset-json {where}".split()
        cases[f"inspect: {what}"] = f"inspect -d {600 + number} -o sheet.png".split()
    for number, (path, value) in enumerate(BROKEN_DESCRIPTIONS):
        cases[f"convert folders: {path} = {value!r}"] = f"convert folders -d 502 --json described{number}.json".split()
    for word in ("liver", "=1", "liver=", "liver=x", "liver=-1", "liver=1.5", "liver=0", "liver=1 liver=2", "a=1 b=1"):
        cases[f"evaluate: -l {word}"] = ["evaluate", "-p", "predicted", "-g", "references", "-l", *word.split()]
    for number in range(len(LABEL_FILES)):
        cases[f"evaluate: {LABEL_FILES[number]}"] = (
            f"evaluate -p predicted -g references -l labels{number}.json".split()
        )
    for words in ("", "predcit", "convert", "convert mscmr", "--verson", "train"):
        cases[f"crossmod {words}"] = words.split()
    return cases


LABEL_FILES = ["{", "[]", "1", '"liver"', "{}", '{"liver": "1"}', '{"liver": [1, 2]}', '{"liver": 0}', '{"labels": 1}']
CASES = all_cases()


def save(path: Path, voxels: np.ndarray, spacing: float = 1.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((spacing, 1, 1))
    sitk.WriteImage(image, str(path))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """Every case's exit code, what it said, whether all files are as before, heavy packages, CPU seconds."""
    root = tmp_path_factory.mktemp("malformed")
    ones = np.ones((3, 8, 8), dtype=np.uint8)
    organs = ones.copy()
    organs[1] = 2
    for name in ("raw", "preprocessed", "results", "empty", "text"):
        (root / name).mkdir()
    (root / "scan.txt").write_text("no scan")
    (root / "weights.pth").write_text("no weights")
    (root / "there.zip").write_text("a zip")
    (root / "table.csv").write_text("scan,kind\nx,CT\n")
    for number in range(2):
        save(root / "mr" / f"m{number}.nii.gz", ones * 9)
        save(root / "mr_labels" / f"m{number}.nii.gz", ones)
        save(root / "ct" / f"c{number}.nii.gz", ones * 7)
    save(root / "scans" / "x.nii.gz", ones * 5)
    for name in ("predicted", "references"):
        save(root / name / "c_CT.nii.gz", organs)
    save(root / "halves" / "c_CT.nii.gz", organs * np.float32(0.5))
    save(root / "sevens" / "c_CT.nii.gz", ones * 7)
    save(root / "other_grid" / "c_CT.nii.gz", organs, spacing=2)
    (root / "text" / "c_CT.nii.gz").write_text("no scan")

    def write(path: Path, content: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))

    raw = root / "raw" / "Dataset501_Organs"
    write(raw / "dataset.json", DATASET)
    for case in BLOCK["cases"]:
        for channel in range(2):
            save(raw / "imagesTr" / f"{case}_{channel:04d}.nii.gz", ones)
        save(raw / "labelsTr" / f"{case}.nii.gz", ones)
    for channel in range(2):
        save(raw / "imagesTs" / f"c_CT_{channel:04d}.nii.gz", ones)
    save(raw / "labelsTs" / "c_CT.nii.gz", organs)
    write(root / "preprocessed" / "Dataset501_Organs" / "nnUNetPlans.json", PLANS)
    write(root / "preprocessed" / "Dataset501_Organs" / "dataset.json", DATASET)
    model = root / "results" / "Dataset501_Organs" / MODEL
    write(model / "plans.json", {**PLANS, "crossmod": {"modalities": ["MR", "CT"]}})
    write(model / "dataset.json", DATASET)
    write(model / "fold_0" / "checkpoint_final.pth", "")
    for number, (path, value) in enumerate(BROKEN_BLOCKS):
        write(root / f"block{number}.json", changed(DATASET, path, value))
        write(root / "raw" / f"Dataset{600 + number}_Broken" / "dataset.json", changed(DATASET, path, value))
    for number, (path, value) in enumerate(BROKEN_DESCRIPTIONS):
        write(root / f"described{number}.json", changed(DESCRIPTION, path, value))
    for number, content in enumerate(LABEL_FILES):
        write(root / f"labels{number}.json", content)
    folders = {f"nnUNet_{name}": str(root / name) for name in ("raw", "preprocessed", "results")}
    environment = {name: value for name, value in os.environ.items() if name != "nnUNet_extTrainer"}
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps(list(CASES.values())),
        capture_output=True,
        text=True,
        check=True,
        cwd=root,
        env={**environment, **folders},
    )
    return dict(zip(CASES, map(json.loads, done.stdout.splitlines()), strict=True))


def test_there_are_many() -> None:
    assert len(CASES) >= 300


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_in_one_line(case: str, results: dict[str, list[Any]]) -> None:
    code, said, untouched, heavy, seconds = results[case]
    assert code in (1, 2), said
    assert said.startswith("Error: "), said
    assert said.count("\n") == 1, said
    assert said.endswith("\n")
    assert untouched
    assert not heavy
    assert seconds < 1.5
