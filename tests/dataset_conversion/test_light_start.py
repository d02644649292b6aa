"""Help and refusals of a conversion come at once: neither PyTorch nor nnU-Net is imported for them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import json, sys, time
from nnunet_crossmod.cli import main
for words in json.loads(sys.argv[1]):
    before = time.process_time()
    try:
        code = main(["convert", *words])
    except SystemExit as stop:
        code = stop.code
    heavy = sorted({"torch", "nnunetv2", "batchgenerators", "monai"} & set(sys.modules))
    print("DONE", json.dumps([words, code, heavy, time.process_time() - before]))
"""


def test_help_and_refusals_import_neither_torch_nor_nnunet(tmp_path: Path) -> None:
    for name in ("a/1.nii.gz", "b/1.nii.gz", "c/2.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"no image")
    places = f"--images A={tmp_path}/a B={tmp_path}/b --labels x=1"
    commands = [
        "folders --help",
        "mscmrseg --help",
        f"folders -d 1 {places} --label-files A={tmp_path}/no",
        f"folders -d 1 {places} --label-files A={tmp_path}/c",
        f"folders -d 1 {places} --label-files A={tmp_path}/a --dry-run",
        f"mscmrseg -d 1 -i {tmp_path}/a",
    ]
    call = [sys.executable, "-c", SCRIPT, json.dumps([line.split() for line in commands])]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    rows = [json.loads(line[5:]) for line in done.stdout.splitlines() if line.startswith("DONE ")]
    assert len(rows) == len(commands)
    for words, code, heavy, seconds in rows:
        assert code == (0 if "--help" in words else 1), words
        assert heavy == [], words
        assert seconds < 1.5, words
    assert done.stderr.count("Error: ") == 4
