"""A trained network as ONNX, for programs that have neither this project nor PyTorch.

    python launch/export.py --checkpoint runs/k400 --out model.onnx     # and model.json next to it

The network has its BatchNorm fused and takes batches of any size, in float32. It is checked against onnxruntime before
it gets its name. model.json describes what must be done to a video before the network sees it, and what its outputs
mean.
"""

from pathlib import Path

from sharding.cli import CommandLine, run_command
from sharding.errors import UserError


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    if options.out.suffix != ".onnx":
        raise UserError(f"--out {options.out}: use a name that ends in .onnx")
    from launch.inference.onnx import export_checkpoint  # torch, once the options are known to be right

    export_checkpoint(options.checkpoint, options.out, options.opset)


def _parser() -> CommandLine:
    parser = CommandLine(prog="launch/export.py", description="Write a trained network as ONNX.")
    parser.add_argument("--checkpoint", type=Path, required=True, help="Run folder (its best) or checkpoint.")
    parser.add_argument("--out", type=Path, required=True, help="File to write, NAME.onnx; NAME.json goes next to it.")
    opset_help = "Version of the ONNX operators; default: the one PyTorch takes by itself."
    parser.add_argument("--opset", type=int | None, default=None, help=opset_help)
    return parser


if __name__ == "__main__":
    run_command(main, "launch/export.py")
