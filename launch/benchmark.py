"""Measurements, each with its conditions next to it.

    python launch/benchmark.py advise --videos DIR      # which profile to pack these videos under
    python launch/benchmark.py pack   --videos DIR      # packing against ffmpeg and tar
    python launch/benchmark.py loader --data DIR        # the loader stage by stage: what binds it, and what to change
    python launch/benchmark.py archives --videos DIR    # packing from archives; indexing shards of others
    python launch/benchmark.py scale                    # the plan of millions of samples and a thousand ranks
    python launch/benchmark.py step                     # training steps of the architectures, against plain TSN
    python launch/benchmark.py ranks --data DIR         # training with one and with two ranks
    python launch/benchmark.py cost                     # what training on Kinetics costs, from measured figures
    python launch/benchmark.py long                     # a long video, window by window, against the usual way
    python launch/benchmark.py gpu --videos DIR         # all that a GPU can show, in seven minutes

Figures hold for this machine at this moment; compare those of one run.
"""

from importlib import import_module

from launch.benchmarks import options
from sharding.cli import CommandLine, run_command

# The module whose function of the command's name does the work, and the options that it takes.
COMMANDS = {
    "advise": ("packing_profiles", options.AdviseOptions),
    "pack": ("packing", options.PackOptions),
    "loader": ("loader", options.LoaderOptions),
    "archives": ("archives", options.ArchivesOptions),
    "scale": ("sampler_scale", options.ScaleOptions),
    "step": ("train_step", options.StepOptions),
    "ranks": ("scaling", options.RanksOptions),
    "cost": ("cost", options.CostOptions),
    "long": ("long_videos", options.LongOptions),
    "gpu": ("gpu", options.GpuOptions),
}


def main(arguments: list[str] | None = None) -> None:
    parser = CommandLine(prog="launch/benchmark.py", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subcommands(required=True, dest="command")
    for name, (_, kind) in COMMANDS.items():
        summary = " ".join((kind.__doc__ or "").split())
        command = CommandLine(description=summary, renamed={"against": "compare-with"})
        command.add_class_arguments(kind, as_group=False)
        parser.add_command(commands, name, command, summary)
    chosen = parser.parse_args(arguments)
    module, kind = COMMANDS[chosen.command]
    checked = kind(**chosen[chosen.command].as_dict())
    # torch, once the options are known to be right
    getattr(import_module(f"launch.benchmarks.{module}"), chosen.command)(checked)


if __name__ == "__main__":
    run_command(main, "launch/benchmark.py")
