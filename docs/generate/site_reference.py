"""Pages of the reference, made from what the program itself reads: its parsers, dataclasses and public names.

    python docs/generate/site_reference.py configuration     # prints reference/configuration.md

So they cannot be out of date. Each function of PAGES returns the Markdown of a page.
"""

import argparse
import ast
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from itertools import pairwise
from unittest.mock import patch

from sharding.cli import CommandLine
from sharding.cli_text import describe_default, describe_type
from sharding.cores import available_cores

COMMANDS = {
    "python -m sharding": "sharding.__main__",
    "launch/train.py": "launch.train",
    "launch/evaluate.py": "launch.evaluate",
    "launch/predict.py": "launch.predict",
    "launch/features.py": "launch.features",
    "launch/export.py": "launch.export",
    "launch/average.py": "launch.average",
    "launch/ensemble.py": "launch.ensemble",
    "launch/visualize.py": "launch.visualize",
    "launch/benchmark.py": "launch.benchmark",
    "launch/search_schedule.py": "launch.search_schedule",
    "launch/lr_transfer.py": "launch.lr_transfer",
    "python -m model.convert": "model.convert",
    "python -m model.complexity": "model.complexity",
}
"""Command lines, and the modules whose `main` reads them."""
DOORS = ("sharding", "pipeline", "model", "launch")
"""Packages whose `__all__` is the Python interface."""
_NOTICE = "*Made from the code when this site is built.*\n"


class _ReadingError(Exception):
    """Raised in the place of reading a command line; holds the parser that would have read it."""


def parser_of(module: str) -> argparse.ArgumentParser:
    """Return the parser that the command of a module reads its command line with."""

    def stop(self, *arguments, **options):
        if isinstance(self, CommandLine):
            self._spell()
        raise _ReadingError(self)

    found = importlib.import_module(module)
    if not hasattr(found, "main"):
        return argparse.ArgumentParser(description=found.__doc__)
    if module.startswith("model."):
        return found._parser()
    try:
        with patch.object(CommandLine, "parse_args", stop):
            found.main([])
    except _ReadingError as stopped:
        return stopped.args[0]
    raise RuntimeError(f"{module}.main read no command line")


def configuration() -> str:
    """Return the page of all keys of a run's configuration."""
    from launch.schedule_search.algorithm import PlanConfig
    from launch.training.clip_schedule import PhaseConfig
    from launch.training.config import Config

    parser = parser_of("launch.train")
    lines = ["# Configuration\n", _NOTICE, _CONFIGURATION]
    sections: dict[str, list[argparse.Action]] = {}
    found = dict(_walk(Config))
    for action in _shown(parser):
        section = action.dest.rpartition(".")[0]
        if action.dest != "config" and section in {"", *found} and action.dest not in found:
            sections.setdefault(section, []).append(action)
    for section in sorted(sections, key=lambda name: (name != "", list(sections).index(name))):
        lines.append(f"## {section or 'The run'}\n")
        lines.append(_first_line(found[section]) + "\n" if section else "")
        lines += [*_table(sections[section], "key", lambda action: action.dest), ""]
    lines += ["## phases[]\n", "Each phase of `phases`, a list ([phases](../planning.md)).\n"]
    lines += [*_table_of_fields(PhaseConfig), ""]
    lines += ["## plan\n", "Of `launch/search_schedule.py` alone ([phases](../planning.md)).\n"]
    lines += [*_table_of_fields(PlanConfig, "plan."), ""]
    return "\n".join(lines)


_CONFIGURATION = """\
Keys of a recipe (`--config FILE`, YAML with these sections) and options of `launch/train.py`:
`--section.key=value`. Defaults, then the file, then the command line. `python launch/train.py --config FILE
--print_config` prints what comes of it; `RUN/config.yaml` keeps it.

`model.num_classes`, `model.num_segments`, `model.levels` and `model.multi_label` follow from `data` and cannot be
given. Renamed keys of older versions are still read; a mistyped key is answered with the nearest one.
"""


def commands() -> str:
    """Return the page of all command lines."""
    lines = ["# Command lines\n", _NOTICE, _COMMANDS]
    for name, module in COMMANDS.items():
        parser = parser_of(module)
        lines += [f"## {name}\n", _examples(inspect.getdoc(importlib.import_module(module)) or "")]
        children = _children(parser)
        for command, child in children.items():
            lines += [f"### {name.rpartition('/')[2]} {command}\n", f"{child.description}\n"]
            lines += [*_table_of_options(child), ""]
        if module == "launch.train":
            lines.append("`--config FILE`, and every key of the [configuration](configuration.md).\n")
        elif module == "launch.search_schedule":
            lines.append("`--config FILE`, every key of the [configuration](configuration.md), and those of `plan`.\n")
        elif not children:
            lines += [*_table_of_options(parser), ""]
    return "\n".join(lines)


_COMMANDS = """\
Options may be spelled with hyphens or underscores. A flag needs no value; a list is its items, one after the other
(`--archs tsn vpsn`). A mistake ends a command with one line and exit code 2 ([exit codes](../training.md#exit-codes)).
"""


def python() -> str:
    """Return the page of the Python interface, which mkdocstrings fills."""
    lines = ["# Python\n", _NOTICE, _PYTHON]
    for door in DOORS:
        package = importlib.import_module(door)
        lines += [f"## {door}\n", _examples(inspect.getdoc(package) or "")]
        lines += [f"::: {home}\n    options:\n      heading: {name}\n" for name, home in homes(door).items()]
    return "\n".join(lines)


_PYTHON = """\
What these four packages export is the interface of this program for other programs; renaming any of it is noted in the
[changelog](../changelog.md). Importing a package loads nothing until a name is used. `examples/` has programs that use
it: a plain PyTorch loop, PyTorch's DataLoader, Lightning, Hugging Face, packing from Python, shards read elsewhere.
"""


def homes(door: str) -> dict[str, str]:
    """Return the public names of a package and where each is defined."""
    package = importlib.import_module(door)
    tree = ast.parse(inspect.getsource(package))
    found = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    return {name: found[name] for name in package.__all__}


def _shown(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    hidden = ("help", "print_config", "print_shtab")
    return [action for action in parser._actions if action.help != argparse.SUPPRESS and action.dest not in hidden]


def _children(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of its subcommands."""
    maps = [getattr(action, "_name_parser_map", None) or {} for action in parser._actions]
    return {name: child for each in maps for name, child in each.items()}


def _table_of_options(parser: argparse.ArgumentParser) -> Iterator[str]:
    def name(action: argparse.Action) -> str:
        return action.option_strings[-1] if action.option_strings else str(action.metavar or action.dest.upper())

    actions = [action for action in _shown(parser) if not hasattr(action, "_name_parser_map")]
    return _table([action for action in actions if action.dest not in _groups(actions)], "option", name)


def _groups(actions: list[argparse.Action]) -> set[str]:
    """Return the sections among the options, which are options of jsonargparse's too: --task FILE."""
    return {action.dest.rpartition(".")[0] for action in actions if "." in action.dest}


def _table(actions: list[argparse.Action], title: str, name: Callable[[argparse.Action], str]) -> Iterator[str]:
    if not actions:
        yield "No options."
        return
    yield f"| {title} | value | default | |"
    yield "|---|---|---|---|"
    for action in actions:
        yield _row(name(action), _value_of(action), _default_of(action), action.help or "")


def _value_of(action: argparse.Action) -> str:
    if action.nargs == 0:
        return "flag"
    if action.choices:
        return ", ".join(map(str, action.choices))
    kind = getattr(action, "_typehint", None) or action.type
    words = describe_type(kind) if kind is not None else "text"
    many = action.nargs in ("+", "*") and not words.startswith("a list")
    return f"one or more: {words}" if many else words


def _default_of(action: argparse.Action) -> str:
    if getattr(action, "required", False) or getattr(action, "_required", False):
        return "*required*"
    if action.nargs == 0 or action.default in (None, argparse.SUPPRESS):
        return ""
    if action.dest.rpartition(".")[2] == "workers" and action.default == available_cores():
        return "one for each core"
    shown = describe_default(action.default)
    return f"`{shown}`" if shown else ""


def _table_of_fields(kind: type, prefix: str = "") -> Iterator[str]:
    docs = field_docs(kind)
    yield "| key | value | default | |"
    yield "|---|---|---|---|"
    for field in fields(kind):
        default = describe_default(field.default)
        value = describe_type(field.type)
        yield _row(f"{prefix}{field.name}", value, f"`{default}`" if default else "", docs[field.name])


def field_docs(kind: type) -> dict[str, str]:
    """Return the sentence below each field of a dataclass, those of its bases included."""
    docs = {}
    for base in reversed([base for base in kind.__mro__ if is_dataclass(base)]):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body
        for field, after in pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr):
                docs[field.target.id] = inspect.cleandoc(after.value.value)
    return docs


def _row(name: str, *cells: str) -> str:
    words = [" ".join(cell.split()).replace("|", "\\|").replace("<", "&lt;") for cell in cells]
    return f"| `{name}` | {' | '.join(words)} |"


def _walk(kind: type, prefix: str = "") -> Iterator[tuple[str, type]]:
    """Return the sections of a configuration, nested ones too, and their dataclasses."""
    for field in fields(kind):
        if is_dataclass(field.type):
            yield prefix + field.name, field.type
            yield from _walk(field.type, f"{prefix}{field.name}.")


def _first_line(kind: type) -> str:
    return " ".join((kind.__doc__ or "").split("\n\n")[0].split())


def _examples(doc: str) -> str:
    """Return a docstring as Markdown: paragraphs of commands or indented ones as code."""
    parts = []
    for paragraph in doc.split("\n\n"):
        lines = paragraph.splitlines()
        code = all(line.startswith(" ") or re.match(r"(python|deepspeed|sbatch|…) ", line) for line in lines)
        text = textwrap.dedent(paragraph)
        parts.append(f"```text\n{text}\n```\n" if code else text + "\n")
    return "\n".join(parts)


PAGES: dict[str, Callable[[], str]] = {
    "reference/configuration.md": configuration,
    "reference/commands.md": commands,
    "reference/python.md": python,
}

if __name__ == "__main__":
    for page in sys.argv[1:] or PAGES:
        print(PAGES[f"reference/{page.removeprefix('reference/').removesuffix('.md')}.md"]())
