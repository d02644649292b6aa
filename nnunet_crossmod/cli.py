"""``crossmod``: what nnU-Net lacks, with nnU-Net's flag letters."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_crossmod.errors import CrossmodError

__all__ = ["main"]

DATASETS = {
    "phantom": "cardiac-like phantom in two modalities, made by code",
    "mmwhs": "MM-WHS 2017: whole heart in CT and MR",
    "sifa_tfrecords": "MM-WHS 2017 slices as released with PnP-AdaNet and SIFA",
    "chaos_btcv": "CHAOS MR and BTCV CT: abdominal organs",
    "amos": "AMOS22: abdominal organs in CT and MR",
    "mscmrseg": "MS-CMRSeg 2019: bSSFP, LGE and T2 cardiac MR",
    "tao": "thyroid-associated orbitopathy: registered T1 and T1c MR, annotated in parts",
    "folders": "any folders of scans, described by flags or a JSON file",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code. Wrong input is told in one line on stderr."""
    words = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="crossmod", description="Cross-modality segmentation with nnU-Net v2.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_trainers_dir(commands)
    _add_doctor(commands)
    _add_convert(commands, words)
    _add_inspect(commands)
    _add_configure(commands)
    _add_inference(commands, words)
    _add_evaluate(commands)
    _add_compare(commands)
    _add_report(commands)
    _add_demo(commands)
    parsed = parser.parse_args(arguments)
    try:
        code: int = parsed.run(parsed) or 0
    except CrossmodError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    return code


if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def _command(commands: Commands, name: str, summary: str, description: str = "") -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=summary,
        description=description or summary[0].upper() + summary[1:] + ".",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_trainers_dir(commands: Commands) -> None:
    def run(_: argparse.Namespace) -> None:
        from nnunet_crossmod.paths import trainers_folder

        print(trainers_folder())

    description = (
        "Print the folder of the trainers, for nnU-Net's own variable:\n\n"
        '  export nnUNet_extTrainer="$(crossmod trainers-dir)"'
    )
    _command(commands, "trainers-dir", "print the folder that nnUNet_extTrainer must name", description).set_defaults(
        run=run
    )


def _add_doctor(commands: Commands) -> None:
    def run(_: argparse.Namespace) -> int:
        from nnunet_crossmod.doctor import examine

        return 1 if examine() else 0

    _command(commands, "doctor", "say what is installed, what is wrong and how to mend it").set_defaults(run=run)


def _add_convert(commands: Commands, arguments: Sequence[str]) -> None:
    parser = _command(commands, "convert", "write a data set as nnU-Net raw with its crossmod block")
    datasets = parser.add_subparsers(dest="dataset", metavar="NAME", required=True)
    for name, summary in DATASETS.items():
        command = _command(datasets, name, summary)
        if name in arguments:
            module = importlib.import_module(f"nnunet_crossmod.dataset_conversion.{name}")
            module.add_arguments(command)
            command.set_defaults(run=module.run)


def _add_inspect(commands: Commands) -> None:
    def run(args: argparse.Namespace) -> None:
        from tqdm import tqdm

        from nnunet_crossmod.data import CrossmodBlock
        from nnunet_crossmod.dataset_conversion.overview import contact_sheet, examine_scan, overview_table
        from nnunet_crossmod.dataset_conversion.raw_files import raw_files, read_case
        from nnunet_crossmod.paths import dataset_folder

        folder = dataset_folder("nnUNet_raw", args.dataset)
        file = folder / "dataset.json"
        if not file.is_file():
            raise CrossmodError(f"{file} does not exist: convert the data set again")
        try:
            dataset_json = json.loads(file.read_text())
        except ValueError as error:
            raise CrossmodError(f"{file} cannot be read as JSON ({error}): convert the data set again") from error
        block = CrossmodBlock.from_dataset_json(dataset_json, str(file))
        everything = {**block.cases, **block.test}
        facts = []
        for name, files in tqdm(
            raw_files(folder, dataset_json).items(), desc=f"Reading {folder.name}", unit="scan", disable=None
        ):
            image, label = read_case(files)
            facts.append(examine_scan(name, image, label if everything[name].labelled else None))
        print(f"{folder}: {overview_table(facts, block, dataset_json.get('conversion', {}).get('left_out', []))}")
        sheet = Path(f"{folder.name}.png") if args.output is None else args.output
        sheet.parent.mkdir(parents=True, exist_ok=True)
        print(f"To check by eye: {contact_sheet(facts, block, sheet)}")

    parser = _command(
        commands,
        "inspect",
        "what a raw data set holds: a table, and a sheet with one slice a scan",
        "Print scans, labels, voxels and spacings of each modality, and draw one slice a scan with its labels.",
    )
    parser.add_argument("-d", dest="dataset", required=True, metavar="DATASET", help="data set id or name")
    parser.add_argument("-o", dest="output", type=Path, metavar="FILE", help="the sheet (default: DATASET.png, here)")
    parser.set_defaults(run=run)


def _add_configure(commands: Commands) -> None:
    def run(args: argparse.Namespace) -> None:
        from nnunet_crossmod.paths import dataset_folder
        from nnunet_crossmod.plans import configure, read_setting, write_plans

        folder = dataset_folder("nnUNet_preprocessed", args.dataset_id)
        original = folder / f"{args.plans}.json"
        if not original.is_file():
            found = ", ".join(sorted(path.stem for path in folder.glob("*Plans*.json")))
            raise CrossmodError(f"{original} does not exist; plans of this data set: {found or 'none, plan it first'}")
        settings = dict(map(read_setting, args.set))
        if args.trainer is not None:
            settings = {**_preset_of(args.trainer, args.preset), **settings}
            _check_settings(args.trainer, settings)
        plans = configure(
            json.loads(original.read_text()),
            args.name,
            settings,
            preset=args.preset,
            batch_size=args.batch_size,
            patch_size=args.patch_size,
            configurations=args.configurations,
        )
        file = write_plans(plans, folder, overwrite=args.overwrite)
        print(f"{file}\nTrain with: nnUNetv2_train {args.dataset_id} CONFIGURATION FOLD -tr TRAINER -p {args.name}")

    parser = _command(
        commands,
        "configure",
        "copy plans under a new name with hyper-parameters of your own",
        "Copy plans under a new name with hyper-parameters of your own. The copy uses the same preprocessed data and\n"
        "gets its own results folder.\n\n"
        "  crossmod configure -d 511 -p nnUNetPlans --set fpc_weight=0.25 --name nnUNetPlans_fpc025\n"
        "  crossmod configure -d 511 --preset cpu --name nnUNetPlans_cpu",
    )
    parser.add_argument("-d", dest="dataset_id", type=int, required=True, metavar="ID", help="data set id")
    parser.add_argument("-p", dest="plans", default="nnUNetPlans", metavar="PLANS", help="plans to copy (nnUNetPlans)")
    parser.add_argument("--name", required=True, metavar="PLANS", help="name of the copy")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="hyper-parameters of the trainer"
    )
    parser.add_argument("--preset", choices=["cpu"], help="cpu: network, batch and schedule for two cores and minutes")
    parser.add_argument(
        "-tr",
        dest="trainer",
        metavar="TRAINER",
        help="check the hyper-parameters against this trainer, and add what it has for the preset",
    )
    parser.add_argument("-b", dest="batch_size", type=int, metavar="N", help="batch size")
    parser.add_argument("--patch-size", type=int, nargs="+", metavar="N", help="patch size in voxels")
    parser.add_argument(
        "-c",
        dest="configurations",
        nargs="+",
        default=[],
        metavar="CONFIGURATION",
        help="which ones -b and --patch-size are for (all)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace plans of that name")
    parser.set_defaults(run=run)


def _preset_of(trainer: str, preset: str | None) -> dict[str, object]:
    from nnunet_crossmod.paths import load_trainer

    return {} if preset is None else dict(load_trainer(trainer).presets.get(preset, {}))


def _check_settings(trainer: str, settings: dict[str, object]) -> None:
    from nnunet_crossmod.paths import load_trainer
    from nnunet_crossmod.training.hyperparameters import resolve

    kind = load_trainer(trainer)
    resolve(kind, kind._hyperparameter_types, settings, "--set")


INFERENCE = {
    "modality-channel": ("modality_channel", "give new scans the modality channel that the networks read", ""),
    "predict": (
        "predict",
        "predict new scans: as modality-channel and nnUNetv2_predict, in one step",
        "Predict new scans. The label maps are those of crossmod modality-channel and nnUNetv2_predict, the flags are\n"
        "nnU-Net's; no second folder is written.\n\n"
        "  crossmod predict -i scans -o out -m LGE -d 511 -c 3d_fullres -f 0 -tr AICLTrainer\n"
        "  crossmod predict -i scans -o out -m 'bSSFP=*_C0' 'LGE=*_LGE' -d 511 -c 2d -f 0 -tr AICLTrainer",
    ),
    "export": (
        "export",
        "make a stock nnU-Net model for one modality, which needs nothing of this package",
        "Turn a trained model into an ordinary nnU-Net model for one modality. It installs with\n"
        "nnUNetv2_install_pretrained_model_from_zip and predicts with nnUNetv2_predict, anywhere.\n\n"
        "  crossmod export -m LGE -d 511 -c 2d -f 0 -tr AICLTrainer -o model.zip",
    ),
    "translate": (
        "translation",
        "source scans in the style of the target, by a trained generator",
        "Translate source scans into the target modality with the generator of a trained model. Each is written with\n"
        "its own geometry, in the z-scores that nnU-Net gives to the modality it was translated into.\n\n"
        "  crossmod translate -d 511 -c 2d -tr CISFATrainer -i source_scans -o translated",
    ),
}


def _add_inference(commands: Commands, arguments: Sequence[str]) -> None:
    for name, (module_name, summary, description) in INFERENCE.items():
        command = _command(commands, name, summary, description)
        if name in arguments:
            module = importlib.import_module(f"nnunet_crossmod.inference.{module_name}")
            module.add_arguments(command)
            command.set_defaults(run=module.run)


def _add_evaluate(commands: Commands) -> None:
    def run(args: argparse.Namespace) -> None:
        from nnunet_crossmod.evaluation import evaluate_folder, printed, write_evaluation
        from nnunet_crossmod.evaluation.structures import of_dataset, of_words

        if args.tolerance <= 0:
            raise CrossmodError(f"--tolerance {args.tolerance} must be above 0 mm")
        known = of_dataset(args.dataset_id) if args.dataset_id is not None else of_words(args.labels, args.modality)
        scores = evaluate_folder(
            args.predictions,
            args.references,
            known.chosen(args.structures),
            known.modalities,
            args.ending or known.ending,
            known.ignore,
            tolerance=args.tolerance,
            processes=args.processes,
        )
        print(printed(scores, args.tolerance))
        if args.output is not None:
            write_evaluation(scores, args.output, args.tolerance)

    parser = _command(
        commands,
        "evaluate",
        "Dice, HD95, ASSD and surface Dice per structure and modality of a folder of predictions",
        "Dice, HD95, ASSD (mm) and normalised surface Dice of every case and structure, and their mean ± standard\n"
        "deviation a modality. A structure that is missed or invented counts with Dice 0 and the image's diagonal.\n"
        "Definitions stand in summary.json.\n\n"
        "  crossmod evaluate -d 511 -p out/ -g labels/ -o metrics/\n"
        "  crossmod evaluate -p other_tool/ -g labels/ -l Myo=1 LV=2 RV=3 -m LGE",
    )
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("-d", dest="dataset_id", metavar="DATASET", help="data set, id or name: labels and modalities")
    data.add_argument(
        "-l", dest="labels", nargs="+", metavar="LABEL", help="without a data set: NAME=VALUE …, or a JSON file of them"
    )
    parser.add_argument("-p", dest="predictions", type=Path, required=True, metavar="FOLDER", help="predictions")
    parser.add_argument("-g", dest="references", type=Path, required=True, metavar="FOLDER", help="labels")
    parser.add_argument("-o", dest="output", type=Path, metavar="FOLDER", help="for metrics.csv, summary.json")
    parser.add_argument("-m", dest="modality", default="", help="with -l: modality of all cases, for the table")
    parser.add_argument("-s", dest="structures", nargs="+", metavar="NAME", help="these structures only")
    parser.add_argument("-np", dest="processes", type=int, metavar="N", help="processes (by the number of cases)")
    parser.add_argument("--tolerance", type=float, default=2.0, metavar="MM", help="of the surface Dice (2 mm)")
    parser.add_argument("--ending", metavar="ENDING", help="of the files (the data set's, or .nii.gz)")
    parser.set_defaults(run=run)


def _add_compare(commands: Commands) -> None:
    def run(args: argparse.Namespace) -> None:
        from nnunet_crossmod.compare import Comparison, read_method, roles_of
        from nnunet_crossmod.device import device_of
        from nnunet_crossmod.plans import read_setting

        methods = [read_method(text) for text in args.trainers]
        comparison = Comparison(
            args.dataset,
            args.configuration,
            methods,
            args.output,
            args.plans,
            args.folds,
            args.seeds or (None,),
            dict(map(read_setting, args.set)),
            args.preset,
            args.checkpoint,
            device_of(args.device),
            not args.disable_tta,
            args.tolerance,
        )
        comparison.run(roles_of(methods, args.floor, args.ceiling, args.against))

    parser = _command(
        commands,
        "compare",
        "train what is missing, predict the test scans, evaluate, and put the methods into one table",
        "Train what is missing, predict the test scans (imagesTs, labelsTs), evaluate, and print the methods in one\n"
        "table: mean ± standard deviation, share of the gap between floor and ceiling closed, paired Wilcoxon tests.\n"
        "Run it again to go on where it stopped. Writes table.md, table.csv, table.tex and scores.csv.\n\n"
        "  crossmod compare -d 520 -c 2d -tr SourceOnlyTrainer AICLTrainer TargetSupervisedTrainer\n"
        '  crossmod compare -d 511 -c 2d --seeds 0 1 2 -tr SourceOnlyTrainer "AICLTrainer fpc_weight=0.05"',
    )
    parser.add_argument("-d", dest="dataset", required=True, metavar="DATASET", help="data set, id or name")
    parser.add_argument("-c", dest="configuration", required=True, metavar="CONFIGURATION", help="2d, 3d_fullres, …")
    parser.add_argument("-f", dest="folds", type=int, nargs="+", default=[0], metavar="FOLD", help="folds (0)")
    parser.add_argument(
        "-tr",
        dest="trainers",
        nargs="+",
        required=True,
        metavar="ROW",
        help='a trainer, or in quotes a trainer and its hyper-parameters: "AICLTrainer gin=source"',
    )
    parser.add_argument("-p", dest="plans", default="nnUNetPlans", metavar="PLANS", help="plans (nnUNetPlans)")
    parser.add_argument("--seeds", type=int, nargs="+", metavar="N", help="train every row with each of these seeds")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="hyper-parameters of all rows"
    )
    parser.add_argument("--preset", choices=["cpu"], help="cpu: network, batch and schedule for two cores and minutes")
    parser.add_argument(
        "-o",
        dest="output",
        type=Path,
        default=Path("crossmod_compare"),
        metavar="FOLDER",
        help="work folder (crossmod_compare)",
    )
    parser.add_argument(
        "-chk",
        dest="checkpoint",
        default="checkpoint_final.pth",
        metavar="FILE",
        help="checkpoint that predicts (checkpoint_final.pth)",
    )
    parser.add_argument("-device", default="auto", choices=["auto", "cpu", "cuda", "mps"], help="cuda if there")
    parser.add_argument("--disable_tta", action="store_true", help="predict without mirroring, as nnU-Net's flag")
    parser.add_argument("--floor", metavar="ROW", help="lower end of the gap (SourceOnlyTrainer)")
    parser.add_argument("--ceiling", metavar="ROW", help="upper end of the gap (TargetSupervisedTrainer)")
    parser.add_argument("--against", metavar="ROW", help="row the others are tested against (the floor, or the first)")
    parser.add_argument("--tolerance", type=float, default=2.0, metavar="MM", help="of the surface Dice (2 mm)")
    parser.set_defaults(run=run)


def _add_report(commands: Commands) -> None:
    def run(args: argparse.Namespace) -> None:
        from nnunet_crossmod.device import device_of
        from nnunet_crossmod.report import write_report

        device = device_of(args.device)
        print(write_report(args.dataset, args.input, args.output, device=device, embeddings=not args.no_embeddings))

    parser = _command(
        commands,
        "report",
        "one page of tables, loss curves, overlays and embeddings",
        "Write one HTML page that needs no other file: the tables of a comparison, worst, median and best scan of\n"
        "every method, loss curves by term, t-SNE of organ embeddings, and the pictures that training drew.\n"
        "Without a comparison it shows what the trainings of the data set left.\n\n"
        "  crossmod report -d 511 -i crossmod_compare -o report.html",
    )
    parser.add_argument("-d", dest="dataset", required=True, metavar="DATASET", help="data set, id or name")
    parser.add_argument(
        "-i",
        dest="input",
        type=Path,
        default=Path("crossmod_compare"),
        metavar="FOLDER",
        help="work folder of crossmod compare (crossmod_compare)",
    )
    parser.add_argument(
        "-o", dest="output", type=Path, default=Path("report.html"), metavar="FILE", help="the page (report.html)"
    )
    parser.add_argument("-device", default="auto", choices=["auto", "cpu", "cuda", "mps"], help="for the embeddings")
    parser.add_argument("--no-embeddings", action="store_true", help="load no model")
    parser.set_defaults(run=run)


def _add_demo(commands: Commands) -> None:
    def run(args: argparse.Namespace) -> None:
        from nnunet_crossmod.demo import run_demo

        run_demo(args.output, args.configuration, args.device, seed=args.seed, overwrite=args.overwrite)

    parser = _command(
        commands,
        "demo",
        "phantom, plan, train, predict, evaluate, picture: everything once, in minutes",
        "Make a phantom data set, plan and preprocess it, train SourceOnlyTrainer and AICLTrainer briefly, predict\n"
        "the test scans with nnUNetv2_predict, print the Dice table and draw image, reference and predictions.",
    )
    parser.add_argument(
        "-o", dest="output", type=Path, default=Path("crossmod_demo"), metavar="FOLDER", help="work folder"
    )
    parser.add_argument("-c", dest="configuration", default="2d", choices=["2d", "3d_fullres"], help="default 2d")
    parser.add_argument(
        "-device", default="auto", choices=["auto", "cpu", "cuda", "mps"], help="default: cuda if there"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the phantom and the trainings")
    parser.add_argument("--overwrite", action="store_true", help="replace the work folder")
    parser.set_defaults(run=run)


if __name__ == "__main__":
    sys.exit(main())
