"""What command lines say: help that fits 80 columns, and what is wrong with an option in plain words."""

import argparse
import difflib
import re
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import NoneType
from typing import Literal, TypeVar, get_args, get_origin

from jsonargparse import DefaultHelpFormatter

Parser = TypeVar("Parser", bound=argparse.ArgumentParser)

_WORDS = {int: "an integer", float: "a number", str: "text", bool: "true or false", Path: "a path", NoneType: "null"}
_NAMES = {
    "PositiveInt": "an integer above 0",
    "NonNegativeInt": "an integer, 0 or more",
    "Positive": "a number above 0",
}
_NAMES |= {"OpenUnitInterval": "a number between 0 and 1"}


class HelpFormatter(DefaultHelpFormatter):
    """Help with a usage of a line or two, and types and defaults in plain words."""

    def _format_usage(self, usage, actions, groups, prefix) -> str:
        parts = [self._prog]
        for action in actions:
            if not action.option_strings and not hasattr(action, "_name_parser_map"):
                parts.append(self._format_args(action, self._get_default_metavar_for_positional(action)))
            elif getattr(action, "_name_parser_map", None):
                parts.append("COMMAND ...")
            elif _is_required(action):
                parts.append(f"{action.option_strings[0]} {action.metavar or action.dest.upper()}")
        parts.insert(1, "[options]")
        lines = textwrap.wrap(f"usage: {' '.join(parts)}", self._width, subsequent_indent=" " * 7)
        return "\n".join(lines) + "\n\n"

    def start_section(self, heading: str | None) -> None:
        super().start_section(heading and "\n".join(textwrap.wrap(heading, self._width - 1)))

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if getattr(action, "_jsonargparse_preexpanded_help", False) or isinstance(action, argparse._HelpAction):
            return super()._get_help_string(action)
        notes = ["required"] if _is_required(action) and action.option_strings else []
        default = action.default
        shown = action.option_strings and "efault" not in text and action.nargs != 0
        if shown and default is not None and default != argparse.SUPPRESS and describe_default(default):
            notes.append(f"default: {describe_default(default)}")
        return text.replace("%", "%%") + (f" ({', '.join(notes).replace('%', '%%')})" if notes else "")

    def _format_action_invocation(self, action: argparse.Action, *arguments, **options) -> str:
        text = super()._format_action_invocation(action, *arguments, **options).replace(" [applied on parse]", "")
        if len(text) <= self._width - self._current_indent:
            return text
        lines = textwrap.wrap(text.replace(",", ", "), self._width - 8, break_on_hyphens=False)  # many choices
        return f"\n{' ' * 8}".join(line.replace(", ", ",") for line in lines)

    def _expand_help(self, action: argparse.Action) -> str:
        return self._get_help_string(action).replace("%%", "%")

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        kind = getattr(action, "_typehint", None)
        item = item_type(kind)
        if item is not None:
            return _metavar(item)
        return _metavar(kind) if kind is not None else super()._get_default_metavar_for_optional(action)

    def _metavar_formatter(self, action, default_metavar):
        if action.metavar is None and getattr(action, "_typehint", None) is bool and action.nargs == "?":
            return lambda size: ("true|false",) * size
        return super()._metavar_formatter(action, default_metavar)


def _is_required(action: argparse.Action) -> bool:
    return bool(action.required or getattr(action, "_required", False))


def _metavar(kind: object) -> str:
    kinds = [kind for kind in (get_args(kind) or (kind,)) if kind is not NoneType]
    names = {int: "N", float: "X", Path: "PATH", str: "TEXT"}
    for kind in kinds:
        for base, name in names.items():
            if isinstance(kind, type) and issubclass(kind, base) and kind is not bool:
                return name
    return "VALUE"


def item_type(kind: object) -> object | None:
    """Return the type of the items of `tuple[X, ...]` where an item is one word of the command line, else None."""
    items = get_args(kind)
    if get_origin(kind) is not tuple or len(items) != 2 or items[1] is not Ellipsis:
        return None
    simple = isinstance(items[0], type) and issubclass(items[0], int | float | str | Path)
    return items[0] if simple and items[0] is not bool else None


def describe_default(value: object) -> str:
    """Return a default as one would type it; nothing for an empty one."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple) and not any(isinstance(item, list | tuple | dict) for item in value):
        return " ".join(map(str, value))
    return str(value) if isinstance(value, int | float | str | Path) else ""


def describe_type(kind: object) -> str:
    """Return what may be given for a type, in words.

    >>> describe_type(Literal["bf16", "fp16", "fp32"])
    'bf16, fp16 or fp32'
    """
    if get_origin(kind) is Literal:
        return _join(map(str, get_args(kind)))
    if item_type(kind) is not None:
        return "a list of " + {int: "integers", float: "numbers"}.get(get_args(kind)[0], "words")
    if get_origin(kind) in (tuple, list):
        return "a list"
    if get_origin(kind) is dict:
        return "a mapping"
    if get_args(kind):
        return _join(map(describe_type, get_args(kind)))
    return _WORDS.get(kind) or _NAMES.get(getattr(kind, "__name__", ""), "another value")


def _join(words: Iterable[str], joint: str = "or") -> str:
    *others, last = words
    return f"{', '.join(others)} {joint} {last}" if others else last


def _missing_keys(message: str) -> list[str]:
    missing = re.match(r"the following arguments are required: (.*)", message)
    return [key.strip() for key in missing[1].split(",")] if missing else []


def find_parser(message: str, parser: Parser) -> Parser:
    """Return the parser of the command whose options are missing, or else `parser` itself."""
    for action in parser._actions:
        for command, child in (getattr(action, "_name_parser_map", None) or {}).items():
            if any(key.startswith(f"{command}.") for key in _missing_keys(message)):
                return child
    return parser


def describe_error(message: str, parser: argparse.ArgumentParser) -> str:
    """Return a complaint of the parser's in a line, with options as they are typed and types in words."""
    line = " ".join(message.split())
    line = re.sub(r"^Call to compute_fn of link '.*?' with args \(.*?\) failed: ", "", line)  # the parser's affair
    line = line.replace('"<unicode string>", ', "")
    line = re.sub(r"Problems parsing config: ", "", line)
    if linked := re.match(r'Linked "([^"]+)" must be given via "([^"]+)"', line):
        return f"{linked[1]} follows from {linked[2].replace(', ', ' and ')}; leave it out"
    found = re.match(r"(?P<where>\S+: )?Parser key \"(?P<key>[^\"]+)\"", line)
    if missing := _missing_keys(line):
        names = [option_of(key, parser) for key in missing]
        return f"{_join(names, 'and')} {'is' if len(names) == 1 else 'are'} required"
    if commands := re.match(r'expected "command" to be one of \{(.*)\}, but it was not provided', line):
        return f"which command? Give one of {commands[1].replace(',', ', ')}"
    value = re.match(r".*(?:Got|Given) value: (.*)$", line)  # the last one is the value as it was typed
    action = _find_action(found["key"], parser) if found else None
    type_hint = getattr(action, "_typehint", None)
    if found is not None and value and type_hint is not None:
        where = found["where"] or ""
        shown = option_of(found["key"], parser) if not where else found["key"]
        joint = "=" if "." in shown else " "
        given = value[1].strip("'\" ")
        is_joined = item_type(type_hint) is not None and "," in given
        example = f": {given.replace(',', ' ')}" if is_joined else ""
        return f"{where}{shown}{joint}{given}: use {describe_type(type_hint)}{example}"
    return line


def option_of(key: str, parser: argparse.ArgumentParser) -> str:
    """Return the key as the command line spells it: "pack.max_frames" -> "--max-frames".

    Of a parser that no command line reads, such as that of a section within a file, it is the key.
    """
    action = _find_action(key, parser)
    if action is None or not getattr(parser, "is_typed", True):
        return key
    if not action.option_strings:
        return str(action.metavar or action.dest.upper())
    dotted = "." in action.option_strings[-1]
    return action.option_strings[-1].removeprefix("--") if dotted else action.option_strings[-1]


def _find_action(key: str, parser: argparse.ArgumentParser) -> argparse.Action | None:
    """Return the action of a key, which may begin with the name of a subcommand."""
    for action in parser._actions:
        if action.dest == key:
            return action
        children = getattr(action, "_name_parser_map", None) or {}
        command, _, rest = key.partition(".")
        if command in children and rest:
            return _find_action(rest, children[command])
    return None


def unknown_name(message: str) -> str | None:
    """Return the option or dotted key that a complaint says is unknown, if that is what it says."""
    option = re.search(r"unrecognized arguments: (-[^\s=]+)", message)
    if option:
        return option[1]
    grouped = re.search(r"(?:Group|Subcommand) '([^']+)' does not accept option '([^']+)'", message)
    if grouped:
        return f"{grouped[1]}.{grouped[2]}"
    single = re.search(r"(?:does not accept option|[Kk]ey|[Oo]ption) '([^']+)'", message)
    return single[1] if single else None


def suggest_name(unknown: str, known: list[str], synonyms: Mapping[str, str]) -> str | None:
    """Return "did you mean ...?" with the known option or dotted key that an unknown one probably means.

    Args:
        unknown: as typed, "--model.dept", or as a configuration file says, "model.dept".
        synonyms: dotted keys by what they are called elsewhere: "lr" -> "optimizer.learning_rate".
    """
    dashes = "--" if unknown.startswith("-") else ""
    key = unknown.lstrip("-").replace("-", "_")
    parent, _, last = key.rpartition(".")
    prefix = f"{dashes}{parent}."
    siblings = {name.removeprefix(prefix): name for name in known if parent and name.startswith(prefix)}
    if near := difflib.get_close_matches(last, siblings, n=1, cutoff=0.7):
        return f"did you mean {siblings[near[0]]}?"
    meant = synonyms.get(key) or synonyms.get(last)
    if meant and meant in known:
        return f"did you mean {dashes}{meant}?"
    matches = difflib.get_close_matches(unknown, known, n=1, cutoff=0.75)
    return f"did you mean {matches[0]}?" if matches else None
