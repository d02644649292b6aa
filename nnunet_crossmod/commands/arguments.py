"""What several commands declare: parsers that import their command late, and flags named as nnU-Net's."""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from nnunet_crossmod.errors import CrossmodError, did_you_mean
from nnunet_crossmod.paths import model_folder

__all__ = [
    "CommandParser",
    "add_device_argument",
    "add_json_argument",
    "add_modality_arguments",
    "add_model_arguments",
    "add_subcommands",
    "add_training_arguments",
    "check_numbers",
    "chosen_folders",
    "complete",
    "fold",
]


class CommandParser(argparse.ArgumentParser):
    """A parser that tells what is wrong in one line; that of a command declares its arguments once it is chosen.

    Args:
        module: of a command; has ``add_arguments(parser)`` and ``run(args)``.
        options: of ``argparse.ArgumentParser``.
    """

    def __init__(self, module: str = "", **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)
        self._module = module

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Import the command's module, declare its arguments, parse them."""
        self.declare()
        return super().parse_known_args(args, namespace)

    def declare(self) -> None:
        """Declare the arguments of the command, if that is not done yet."""
        if self._module:
            command = importlib.import_module(self._module)
            if self.description is None:
                self.description = command.__doc__
            command.add_arguments(self)
            if hasattr(command, "run"):
                self.set_defaults(run=command.run)
            self._module = ""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the words of the command line, and stop with exit code 2."""
        if choice := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message):
            message += did_you_mean(choice[1], re.findall(r"[\w.-]+", choice[2]))
        self.exit(2, f"Error: {message}; see {self.prog} --help\n")


def add_subcommands(
    parser: argparse.ArgumentParser, package: str, summaries: dict[str, str], *, dest: str, metavar: str
) -> None:
    """Declare the commands of a package: name → summary; ``a-name`` is the module ``a_name``."""
    commands = parser.add_subparsers(dest=dest, metavar=metavar, required=True, parser_class=CommandParser)
    for name, summary in summaries.items():
        commands.add_parser(name, help=summary, module=f"{package}.{name.replace('-', '_')}")


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """Declare ``--json``."""
    parser.add_argument("--json", action="store_true", help="print the table as JSON, and nothing else")


def complete(parser: argparse.ArgumentParser, line: Sequence[str]) -> None:
    """Print how a command line may go on, and stop: what a shell asks for through argcomplete."""
    import argcomplete

    chosen = parser
    for word in line:
        for action in chosen._actions:
            if isinstance(action, argparse._SubParsersAction) and word in action.choices:
                chosen = action.choices[word]
                chosen.declare()
                break
    argcomplete.autocomplete(parser)


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """Declare nnU-Net's ``-device``, and ``auto``."""
    parser.add_argument(
        "-device", default="auto", choices=["auto", "cpu", "cuda", "mps"], help="default: cuda if there"
    )


def add_modality_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare ``-m`` and ``--modalities``, one of which tells the modalities of a folder's scans."""
    modality = parser.add_mutually_exclusive_group(required=True)
    modality.add_argument(
        "-m",
        dest="modality",
        nargs="+",
        metavar="MODALITY",
        help="modality of all scans, or one per file-name pattern: -m 'bSSFP=*_C0' 'LGE=*_LGE'",
    )
    modality.add_argument(
        "--modalities", type=Path, metavar="FILE.csv", help="modality of every case, in columns named case,modality"
    )


def add_model_arguments(parser: argparse.ArgumentParser, *, several: bool = False) -> Any:
    """Declare nnU-Net's flags that name a trained model; returns the group of ``-d`` and ``--model-folder``."""
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("-d", dest="dataset", metavar="DATASET", help="id or name of the data set")
    model.add_argument(
        "--model-folder", type=Path, metavar="FOLDER", help="the model's folder, instead of -d, -tr, -p and -c"
    )
    parser.add_argument("-tr", dest="trainer", metavar="TRAINER", help="trainer")
    parser.add_argument("-p", dest="plans", default="nnUNetPlans", metavar="PLANS", help="plans (nnUNetPlans)")
    parser.add_argument(
        "-c", dest="configuration", nargs="+" if several else None, metavar="CONFIGURATION", help="2d, 3d_fullres, …"
    )
    parser.add_argument(
        "-f", dest="folds", nargs="+", type=fold, metavar="FOLD", help="folds, or all (default: the trained ones)"
    )
    return model


def add_training_arguments(parser: argparse.ArgumentParser, models: str) -> None:
    """Declare how several models are trained and predict.

    Args:
        models: what the help calls them, as ``every row``.
    """
    parser.add_argument("-d", dest="dataset", required=True, metavar="DATASET", help="data set, id or name")
    parser.add_argument("-c", dest="configuration", required=True, metavar="CONFIGURATION", help="2d, 3d_fullres, …")
    parser.add_argument(
        "-f", dest="folds", type=fold, nargs="+", default=[0], metavar="FOLD", help="folds, or all (default: 0)"
    )
    parser.add_argument("-p", dest="plans", default="nnUNetPlans", metavar="PLANS", help="plans (nnUNetPlans)")
    parser.add_argument("--seeds", type=int, nargs="+", metavar="N", help=f"train {models} with each; three or more")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help=f"hyper-parameters of {models}"
    )
    parser.add_argument("--preset", choices=["cpu"], help="cpu: network, batch and schedule for two cores and minutes")
    add_device_argument(parser)
    parser.add_argument("--disable_tta", action="store_true", help="predict without mirroring, as nnU-Net's flag")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="models trained side by side, sharing the cores (1)"
    )


def check_numbers(folds: Sequence[int | str], seeds: Sequence[int], jobs: int, tolerance: float = 2.0) -> None:
    """Raise :class:`CrossmodError` for what no training of several models can use."""
    for seed in seeds:
        if seed < 0:
            raise CrossmodError(f"--seeds {seed} is negative: give numbers from 0")
    for flag, values in (("--seeds", seeds), ("-f", folds)):
        if len(set(values)) < len(values):
            raise CrossmodError(f"{flag} {' '.join(map(str, values))} names one twice: name each once")
    if jobs < 1:
        raise CrossmodError(f"--jobs {jobs} must be 1 or more")
    if not tolerance > 0:
        raise CrossmodError(f"--tolerance {tolerance} must be above 0 mm")


def chosen_folders(args: argparse.Namespace) -> list[Path]:
    """The folders of the models that the flags of :func:`add_model_arguments` name.

    Raises:
        CrossmodError: there is no such model, or a flag is missing.
    """
    if args.model_folder is not None:
        if args.trainer is not None or args.configuration is not None:
            raise CrossmodError("--model-folder says which model it is: leave out -tr and -c, or give -d instead")
        return [args.model_folder]
    for flag, value in (("-tr", args.trainer), ("-c", args.configuration)):
        if value is None:
            raise CrossmodError(f"which model? Add {flag} as in nnUNetv2_train")
    names: Sequence[str] = [args.configuration] if isinstance(args.configuration, str) else args.configuration
    return [model_folder(args.dataset, args.trainer, args.plans, name) for name in dict.fromkeys(names)]


def fold(word: str) -> int | str:
    """A fold of nnU-Net: a number, or ``all``."""
    if word != "all" and not word.isdigit():
        raise argparse.ArgumentTypeError(f"{word!r} is no fold: give numbers, or all")
    return word if word == "all" else int(word)
