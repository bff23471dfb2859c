"""Weights of other projects in the names and shapes of this one, and of this one in theirs.

    python -m model.convert TSM_kinetics_RGB_resnet50.pth --to ours --out tsm.safetensors
    python -m model.convert runs/k400/checkpoints/step-00012000 --to mmaction2 --out tsm_for_mmaction2.pth
    python -m model.convert SLOW_8x8_R50.pyth --to mmaction2 --out slowonly.pth

Nothing in a file is run. Training needs no conversion: --model.pretrained takes files of all these projects.
"""

import argparse
import sys
from pathlib import Path
from typing import NoReturn

_TARGETS = ("ours", "torchvision", "tsm", "mmaction2", "slowfast")
_SUFFIXES = (".pth", ".pt", ".pyth", ".tar", ".safetensors")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: error: {message}; see {self.prog} --help", file=sys.stderr)
        sys.exit(2)


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        _check(options)
        for line in convert(options.file, options.to, options.out, options.arch):
            print(line)
    except (ValueError, OSError) as error:
        print(f"model.convert: error: {error}", file=sys.stderr)
        return 2
    return 0


def convert(source: Path, to: str, out: Path, arch: str | None = None) -> list[str]:
    """Write the weights of one file into another, under the names of `to`; return what was done, in lines.

    Raises:
        ValueError: they cannot be read, or there is no such network; nothing is written then.
        OSError: the file cannot be written.
    """
    from model.weights.families import IMAGENET
    from model.weights.files import WeightFileError
    from model.weights.header import describe_weights
    from model.weights.source import read_weights_file
    from model.weights.writing import (  # torch, once the options are known to be right
        TARGETS,
        describe_statistics,
        find_arch,
        rename_for,
        write_weights,
    )

    try:
        weights = read_weights_file(source)
        state, arch = weights.load(), find_arch(weights, arch)
        statistics = weights.statistics or IMAGENET
        names = "this program" if to == "ours" else to
        lines = [f"{out}: {len(state)} tensors of {weights.title}, as {names} names them"]
        if to == "ours":
            content = {name: value.contiguous() for name, value in state.items()}
            write_weights(out, content, describe_weights(arch, statistics))
            return [*lines, *weights.notes, *([f"for model.arch={arch}"] if arch else [])]
        renamed, depth = rename_for(to, state, arch)
        write_weights(out, TARGETS[to].wrap(renamed, depth))
        said = describe_statistics(to, statistics)
        return lines + [*weights.notes] + ([said] if said else [])
    except WeightFileError as error:
        raise ValueError(f"{source}: {error}") from error


def _check(options: argparse.Namespace) -> None:
    """Raise ValueError for options that cannot be meant, before torch is imported."""
    if options.file.is_dir():
        options.file /= "model.safetensors"
        if not options.file.is_file():
            raise ValueError(
                f"{options.file.parent}: no model.safetensors in it; give a file or a folder of a checkpoint"
            )
    if not options.file.is_file():
        raise ValueError(f"{options.file}: no such file")
    if options.out.suffix not in _SUFFIXES:
        raise ValueError(f"--out {options.out}: use a name that ends in {', '.join(_SUFFIXES)}")
    if options.out.suffix == ".safetensors" and options.to not in ("ours", "torchvision"):
        raise ValueError(f"--out {options.out}: {options.to} reads files of torch.save; use a name that ends in .pth")
    if not options.out.absolute().parent.is_dir():
        raise ValueError(f"--out {options.out}: there is no folder {options.out.parent}")
    if options.out.exists() and options.out.samefile(options.file):
        raise ValueError(f"--out {options.out}: that is the file itself; use another name")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="model.convert",
        description="Write weights under the names of this project or of another.",
        epilog="The network must be one that both have: torchvision has ResNets (tsn), tsm has tsn and tsm, mmaction2 "
        "has tsn, tsm and slowonly, slowfast has slowonly of depth 50 and 101. Numbers are not changed: there and back "
        "gives the same tensors. docs/weights.md says which files can be read.",
    )
    parser.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="Weights of any family that model.pretrained takes (.pth, .pth.tar, .pyth, .safetensors), or a "
        "checkpoint's folder.",
    )
    parser.add_argument("--to", required=True, choices=_TARGETS, help="Whose names to write.")
    parser.add_argument("--out", required=True, type=Path, help="File to write; .safetensors for ours and torchvision.")
    parser.add_argument(
        "--arch",
        choices=("tsn", "tsm", "slowonly"),
        help="Architecture, where the file does not say: tsn and tsm have the same names here.",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
