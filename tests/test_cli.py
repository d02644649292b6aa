"""``crossmod``: help everywhere, one line for what is wrong, an exit code that says so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from nnunet_crossmod.cli import COMMANDS, main
from nnunet_crossmod.commands import doctor, trainers_dir
from nnunet_crossmod.commands.convert import DATASETS
from nnunet_crossmod.errors import CrossmodError
from nnunet_crossmod.paths import load_trainer, trainer_names, trainers_folder

HELPS = [[], *[[command] for command in COMMANDS], *[["convert", name] for name in DATASETS]]


@pytest.mark.parametrize("command", HELPS, ids=lambda words: " ".join(words) or "crossmod")
def test_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    assert "usage: crossmod" in capsys.readouterr().out


ALL = """
import json, sys, time
from nnunet_crossmod.cli import main
for words in json.loads(sys.argv[1]):
    before = time.process_time()
    try:
        code = main(words)
    except SystemExit as stop:
        code = stop.code
    loaded = {"torch", "nnunetv2", "pandas", "matplotlib", "scipy"} & set(sys.modules)
    print("DONE", json.dumps([words, code, sorted(loaded), time.process_time() - before]))
"""
REFUSED = (
    "predict -i {here} -o {here} -m LGE -d 1 -c 2d -tr A",
    "translate -i {here} -o {here}/out -d 1 -c 2d -tr A -step_size 2",
    "evaluate -l A=1 -p {here} -g {here} --tolerance 0",
    "compare -d 1 -c 2d -tr A --seeds 0 0",
    "self-train -d 1 -c 2d -tr A --rounds 0",
    "demo --seed -1",
)


def in_one_process(commands: list[list[str]]) -> tuple[list[Any], str]:
    """Words, exit code, heavy packages loaded so far and CPU seconds of every command; and what they said."""
    call = [sys.executable, "-c", ALL, json.dumps(commands)]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    rows = [json.loads(line[5:]) for line in done.stdout.splitlines() if line.startswith("DONE ")]
    assert len(rows) == len(commands)
    return rows, done.stderr


def test_no_help_loads_anything_heavy() -> None:
    for words, code, loaded, seconds in in_one_process([[*words, "--help"] for words in HELPS])[0]:
        assert (code, loaded) == (0, []), words
        assert seconds < 1.5, words


def test_a_refusal_comes_before_anything_heavy(tmp_path: Path) -> None:
    rows, errors = in_one_process([line.format(here=tmp_path).split() for line in REFUSED])
    for words, code, loaded, seconds in rows:
        assert code == 1, words
        assert not set(loaded) & {"torch", "nnunetv2"}, words
        assert seconds < 1.5, words
    assert errors.count("\n") == errors.count("Error: ") == len(REFUSED)


def test_doctor_says_its_first_line_before_anything_heavy() -> None:
    script = "import sys; sys.modules['torch'] = None; from nnunet_crossmod.cli import main; main(['doctor'])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("Versions\n")


@pytest.mark.parametrize("seeds", [["-1"], ["1", "0", "1"]])
def test_compare_refuses_seeds(seeds: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "-d", "901", "-c", "2d", "-tr", "AICLTrainer", "--seeds", *seeds]) == 1
    assert "--seeds" in one_line(capsys)


def completed(line: str) -> list[str]:
    """What the shell is told of how a line may go on."""
    asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": " ", "COMP_LINE": line, "COMP_POINT": str(len(line))}
    call = f'"{sys.executable}" -m nnunet_crossmod.cli 8>&1 9>&2'
    return subprocess.run(
        ["bash", "-c", call], capture_output=True, text=True, check=True, env={**os.environ, **asked}
    ).stdout.split()


def test_the_shell_completes_commands_and_flags() -> None:
    pytest.importorskip("argcomplete")
    assert completed("crossmod pre") == ["predict"]
    assert completed("crossmod convert mmw") == ["mmwhs"]
    assert completed("crossmod convert folders --label-f") == ["--label-files"]


@pytest.mark.parametrize("word", ["predcit", "evalute"])
def test_a_misspelt_command_is_guessed(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([word])
    assert f"did you mean {'predict' if word == 'predcit' else 'evaluate'}?" in one_line(capsys)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device", "out/a.nii.gz"), PermissionError("no")])
def test_what_the_system_refuses_is_one_line(
    error: OSError, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> Path:
        raise error

    monkeypatch.setattr(trainers_dir, "trainers_folder", fails)
    assert main(["trainers-dir"]) == 1
    assert (error.strerror or "no") in one_line(capsys)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--set", "fpc_wait=0.25"], "did you mean fpc_weight?"),
        (["--set", "gin_probability=3"], "must be a number at least 0 and at most 1"),
        (["--set", "gin=sauce"], "must be one of"),
    ],
)
def test_configure_checks_against_all_trainers_where_none_is_named(
    words: list[str], says: str, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["configure", "-d", "901", "--name", "nnUNetPlans_no", *words]) == 1
    assert says in one_line(capsys)
    assert not (dataset / "nnUNetPlans_no.json").exists()


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"crossmod {version('nnunet-crossmod')}\n"


def test_no_command_and_a_wrong_one_are_refused() -> None:
    for arguments in ([], ["dance"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2


def test_trainers_dir_is_what_nnunet_wants(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trainers-dir"]) == 0
    folder = Path(capsys.readouterr().out.strip())
    assert folder == trainers_folder()
    assert (folder / "aicl_trainer.py").is_file()


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert error.startswith("Error: ")
    return error


def test_configure_writes_plans_of_ones_own(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["configure", "-d", "901", "--set", "fpc_weight=0.25", "gin=source", "--name", "nnUNetPlans_fpc025"]
    assert main([*command, "-tr", "AICLTrainer"]) == 0
    plans = json.loads((dataset / "nnUNetPlans_fpc025.json").read_text())
    assert plans["crossmod"] == {"fpc_weight": 0.25, "gin": "source"}
    assert "crossmod train 901" in capsys.readouterr().out
    assert main(command) == 1
    assert "--overwrite" in one_line(capsys)
    (dataset / "nnUNetPlans_fpc025.json").unlink()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-d", "901", "--set", "fpc_wait=1", "-tr", "AICLTrainer"], "fpc_weight"),
        (["-d", "901", "-tr", "BestTrainer"], "AICLTrainer"),
        (["-d", "901", "-p", "otherPlans"], "nnUNetPlans"),
        (["-d", "999"], "nnUNetv2_plan_and_preprocess -d 999"),
        (["-d", "901", "--set", "fpc_weight"], "NAME=VALUE"),
    ],
)
def test_configure_refuses(arguments: list[str], says: str, dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(dataset.iterdir())
    assert main(["configure", "--name", "nnUNetPlans_no", *arguments]) == 1
    assert says in one_line(capsys)
    assert sorted(dataset.iterdir()) == before


def test_evaluate_of_the_references_themselves_is_perfect(
    dataset: Path, nnunet: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = nnunet["nnUNet_raw"] / dataset.name / "labelsTs"
    assert main(["evaluate", "-d", "901", "-p", str(labels), "-g", str(labels), "-o", str(tmp_path / "out")]) == 0
    assert "lge" in capsys.readouterr().out
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["modalities"]["lge"]["structures"]["mean"]["dice"] == {"mean": 1, "std": None}
    assert summary["conventions"]["tolerance_mm"] == 2
    assert main(["evaluate", "-d", "901", "-p", str(labels), "-g", str(labels), "-m", "lge", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["modalities"]) == ["lge"]
    assert (tmp_path / "out" / "metrics.csv").read_text().count("\n") == 1 + 2 * 3
    assert main(["evaluate", "-d", "901", "-p", str(tmp_path), "-g", str(labels)]) == 1
    assert "no case in common" in one_line(capsys)


@pytest.mark.parametrize("words", [["Myo=1", "LV=2"], ["FILE"]])
def test_evaluate_without_a_data_set(
    words: list[str], dataset: Path, nnunet: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labels.json").write_text(json.dumps({"background": 0, "Myo": 1, "LV": 2}))
    words = [str(tmp_path / "labels.json") if word == "FILE" else word for word in words]
    labels = str(nnunet["nnUNet_raw"] / dataset.name / "labelsTs")
    command = ["evaluate", "-p", labels, "-g", labels, "-m", "LGE", "-l", *words]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "LGE: 2 cases" in said
    assert "RV" not in said
    assert main([*command, "-s", "LV"]) == 0
    assert "Myo" not in capsys.readouterr().out
    assert main([*command, "-s", "aorta"]) == 1
    assert "Myo, LV" in one_line(capsys)


@pytest.mark.parametrize("words", [["Myo"], ["Myo=one", "LV=2"], ["background=0"]])
def test_evaluate_refuses_other_labels(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "-p", str(tmp_path), "-g", str(tmp_path), "-l", *words]) == 1
    assert "-l" in one_line(capsys)


def test_doctor_is_content_with_this_environment(nnunet: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.examine() == []
    said = capsys.readouterr().out
    assert all(name in said for name in trainer_names())


def test_doctor_tells_what_to_mend(
    nnunet: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.delenv("nnUNet_raw")
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "nowhere"))
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path))
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out.split("To mend:")[1]
    assert "export nnUNet_raw=" in said
    assert f"mkdir -p {tmp_path / 'nowhere'}" in said
    assert 'export nnUNet_extTrainer="$(crossmod trainers-dir)"' in said


def test_trainers_are_found_by_name() -> None:
    assert load_trainer("AICLTrainer").__name__ == "AICLTrainer"


@pytest.mark.slow
def test_installed_command_and_an_error_of_a_conversion(tmp_path: Path) -> None:
    program = Path(sys.executable).parent / "crossmod"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("nnUNet")}
    run: Callable[..., Any] = subprocess.run
    done = run(
        [program, "convert", "phantom", "-d", "903"], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert "nnUNet_raw" in done.stderr


def test_trainers_in_a_folder_of_ones_own_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(
        "from nnunet_crossmod.training import CrossModalTrainer\n\n\nclass MineTrainer(CrossModalTrainer):\n    pass\n"
    )
    with pytest.raises(CrossmodError, match="there is no trainer 'MineTrainer'"):
        load_trainer("MineTrainer")
    monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join([str(trainers_folder()), str(tmp_path)]))
    assert load_trainer("MineTrainer").__name__ == "MineTrainer"
    assert load_trainer("AICLTrainer").__name__ == "AICLTrainer"
