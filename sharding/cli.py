"""The command-line parser every command of the project uses: one clear line and exit code 2 for a user's mistake.

Options of commands are spelled --like-this, keys of the configuration --section.like_this; either may be typed with
hyphens or underscores. A truth value needs no word behind it (--json), a list is its items (--archs tsn vpsn).
"""

import argparse
import errno
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, set_parsing_settings
from jsonargparse._typehints import ActionTypeHint

from sharding.cli_text import HelpFormatter, describe_error, find_parser, item_type, suggest_name, unknown_name
from sharding.cli_yaml import check_sections
from sharding.errors import UserError, redacted

# The sentence under each dataclass field is its documentation and its --help.
set_parsing_settings(docstring_parse_attribute_docstrings=True)


_PART_OF_A_VALUE = re.compile(r".*Parser key \"(\S+)\".*NestedArg\(key='(\w+)'.*", re.DOTALL)
"""The complaint about --model.backbone.depth where model.backbone is one value."""


class CommandLine(ArgumentParser):
    """An ArgumentParser whose errors are one line, with the nearest option or key where a name is unknown.

    Args:
        renamed: options and keys by the names they had before, which stay accepted: "data.read_ahead" ->
            "data.prefetch_batches".
        synonyms: keys by what they are called elsewhere, for hints.
        hints: what to do instead of giving a name that has no counterpart here; of "NAME=", instead of giving NAME
            a value that it does not take.
        has_keys: whether the options without a dot are keys of a configuration too, and so spelled like them.
    """

    def __init__(
        self,
        renamed: Mapping[str, str] = {},
        synonyms: Mapping[str, str] = {},
        hints: Mapping[str, str] = {},
        has_keys: bool = False,
        **arguments,
    ):
        super().__init__(allow_abbrev=False, formatter_class=HelpFormatter, **arguments)  # --model.dept is a mistake
        self.renamed, self.synonyms, self.hints, self._has_keys = renamed, synonyms, hints, has_keys

    def add_command(self, commands: Any, name: str, parser: "CommandLine", summary: str) -> None:
        """Add `parser` to what `add_subcommands` returned, with the options spelled as everywhere."""
        commands.add_subcommand(name, parser, help=summary)
        parser.prog = f"{self.prog} {name}"
        parser._spell()

    def parse_args(self, *arguments, **options):
        self._spell()
        try:
            return super().parse_args(*arguments, **options)
        except UnicodeDecodeError as error:  # only configuration files are read
            self.error(f"--config: not a text file ({error.reason} at byte {error.start}); give a YAML file")
        except RecursionError:
            self.error("a value, or the file of --config, is nested too deeply; write it plainly")

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        parser = getattr(ex, "subcommand_parser", None) or find_parser(message, self)
        message = _PART_OF_A_VALUE.sub(r"unrecognized arguments: --\1.\2", message)
        unknown = unknown_name(" ".join(message.split()))
        line = describe_error(message, self)
        known = [name for action in parser._all_actions() for name in _names(action)]
        wrong = re.search(r'Parser key "([^"]+)"', message)
        hint = unknown and (self._hint(unknown) or suggest_name(unknown, known, self.synonyms))
        hint = hint or (wrong and self.hints.get(f"{wrong[1]}="))
        see = "" if "; " in line or ": use " in line else f"; see {parser.prog} --help"
        hint = f"; {hint}" if hint else see
        if not self.exit_on_error:
            raise UserError(line + hint)
        print(redacted(f"{parser.prog}: error: {line}{hint}"), file=sys.stderr)
        sys.exit(2)

    def dump(self, *arguments, **options) -> str:
        """Return the configuration as --print_config writes it, without what its URLs hold of secrets."""
        return redacted(super().dump(*arguments, **options))

    def _hint(self, unknown: str) -> str | None:
        return self.hints.get(unknown.removeprefix("--").replace("-", "_").rpartition(".")[2])

    def _all_actions(self) -> list[argparse.Action]:
        children = [getattr(action, "_name_parser_map", None) or {} for action in self._actions]
        return self._actions + [action for child in children for parser in child.values() for action in parser._actions]

    is_typed = False
    """Whether a command line is read, not a section of a file alone."""

    def _spell(self) -> None:
        """Accept each option with hyphens and underscores, truth values and lists as described above."""
        self.is_typed = True
        for action in list(self._actions):
            _accept_items(action)
            for option in list(action.option_strings):
                hyphens = "--" + option[2:].replace("_", "-")
                for spelling in (option, hyphens, "--" + option[2:].replace("-", "_")):
                    self._option_string_actions.setdefault(spelling, action)
                if "." not in option and option.startswith("--") and not self._has_keys:
                    action.option_strings = [hyphens if name == option else name for name in action.option_strings]
        for old, new in self.renamed.items():
            action = self._option_string_actions.get(f"--{new}")
            if action is not None:
                for spelling in {old, old.replace("_", "-"), old.replace("-", "_")}:
                    self._option_string_actions[f"--{spelling}"] = _Renamed(action, f"--{old}", f"--{new}")

    def _load_config_parser_mode(self, content, path="", *arguments, **options):
        """Name the file in what is wrong with its content."""
        path = path and self._config_path
        try:
            if isinstance(content, str):
                sections = {action.dest.partition(".")[0] for action in self._actions if "." in action.dest}
                check_sections(content, sections)
            values = super()._load_config_parser_mode(content, path, *arguments, **options)
            self.validate(values, skip_unset=True, skip_required=True)
            return values
        except (TypeError, KeyError) as error:
            raise TypeError(f"{path}: {error.args[0]}" if path else error.args[0]) from error

    def parse_path(self, path, *arguments, **options):
        self._config_path = getattr(path, "relative", path)  # as it was typed
        return super().parse_path(path, *arguments, **options)

    def _apply_actions(self, cfg, *arguments, **options):
        if isinstance(cfg, dict):
            cfg = with_current_names(cfg, self.renamed, self._note_renamed)
        return super()._apply_actions(cfg, *arguments, **options)

    def _note_renamed(self, old: str, new: str) -> None:
        if int(os.environ.get("RANK", "0")) == 0:
            print(f"{self.prog}: {old} is now called {new}", file=sys.stderr)


class _Items(ActionTypeHint):
    """A list given as one item or more, or as before in one word: --depths 2 4 8, --depths=[2,4,8]."""

    def __call__(self, *arguments, **options):
        parser, namespace, values, option = arguments
        in_one_word = len(values) == 1 and values[0].startswith("[")
        super().__call__(parser, namespace, values[0] if in_one_word else values, option)

    def _check_type(self, value, **options):
        with self._as_one():
            return super()._check_type(value, **options)

    def instantiate_classes(self, value):
        with self._as_one():
            return super().instantiate_classes(value)

    def serialize(self, value, dump_kwargs=None):
        with self._as_one():
            return super().serialize(value, dump_kwargs)

    @contextmanager
    def _as_one(self) -> Iterator[None]:
        """Let the type be that of all items together, not of each."""
        self.nargs = None
        try:
            yield
        finally:
            self.nargs = "+"


def _accept_items(action: argparse.Action) -> None:
    """Let a truth value need no word behind it, and a list be its items."""
    kind = getattr(action, "_typehint", None)
    if not action.option_strings:
        return
    if kind is bool and action.nargs is None and "." not in action.option_strings[0]:
        action.nargs, action.const = "?", True
    elif type(action) is ActionTypeHint and action.nargs is None and item_type(kind) is not None:
        action.__class__, action.nargs = _Items, "+"


class _Renamed(argparse.Action):
    """An option under the name it had before."""

    def __init__(self, action: argparse.Action, old: str, new: str):
        kind: Any = action.type  # the stubs allow a type's name too, which no action here has
        super().__init__([old], action.dest, nargs=action.nargs, const=action.const, type=kind, choices=action.choices)
        self._action, self._new = action, new

    def __call__(self, parser, namespace, values, option_string=None):
        assert isinstance(parser, CommandLine)
        parser._note_renamed(self.option_strings[0], self._new)
        self._action(parser, namespace, values, self._new)


def with_current_names(
    values: Mapping[str, Any], renamed: Mapping[str, str], note: Callable[[str, str], None] = lambda old, new: None
) -> dict[str, Any]:
    """Return the sections of a configuration with renamed keys under the names they have now.

    Args:
        renamed: dotted keys, as "data.read_ahead" -> "data.prefetch_batches"; a key stays in its section.
        note: called with the old and the new name of each key found.
    """
    current = {name: dict(given) if isinstance(given, dict) else given for name, given in values.items()}
    for old, new in renamed.items():
        section, _, old_name = old.rpartition(".")
        names = current.get(section) if section else current
        if isinstance(names, dict) and old_name in names:
            names[new.rpartition(".")[2]] = names.pop(old_name)
            note(old, new)
        if section and old in current:
            current[new] = current.pop(old)
            note(old, new)
    return current


# Of a file or folder that an error names: it may not be read or written, is gone, or is not what it should be.
_WHAT_A_USER_CAN_MEND = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY),
    *(errno.ELOOP, errno.ENAMETOOLONG, errno.ENOSPC, errno.EDQUOT, errno.ESTALE),
}


def run_command(main: Callable[[list[str] | None], int | None], prog: str) -> NoReturn:
    """Run `main(None)`, on the process's own arguments, and exit with its result.

    A UserError becomes one line on stderr and its exit code, mostly 2; so does output that cannot be written, with 1.
    A reader that has read enough (head) ends the command silently, Ctrl-C with a line.
    """
    try:
        _prepare_streams()
        code = main(None) or 0
        sys.stdout.flush()
    except UserError as error:
        code = _report(f"{prog}: error: {error}", error.exit_code)
    except BrokenPipeError:
        code = 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        code = _report(f"{prog}: interrupted", 128 + signal.SIGINT)
    except SystemExit as exit:
        code = exit.code if isinstance(exit.code, int) else int(bool(exit.code))
    except OSError as error:
        if error.filename is not None and error.errno in _WHAT_A_USER_CAN_MEND:
            code = _report(f"{prog}: error: {error.filename}: {error.strerror}; correct that and run it again", 2)
        elif error.filename is not None or error.errno not in (errno.ENOSPC, errno.EIO, errno.EDQUOT):
            raise
        else:
            code = _report(f"{prog}: error: cannot write the output: {error.strerror}", 1)
    _exit(code, prog)


def _prepare_streams() -> None:
    """Let a command print any name of a file, and one that was started without stdout or stderr (>&-) to nowhere."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115 (for the life of the process)


def _report(line: str, code: int) -> int:
    with suppress(OSError):
        print(redacted(line), file=sys.stderr, flush=True)
    return code


def _exit(code: int, prog: str) -> NoReturn:
    """Exit after writing out what is buffered; what cannot be written is dropped, so that nothing is left to fail."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = code or 128 + signal.SIGPIPE
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        code = code or _report(f"{prog}: error: cannot write the output: {error.strerror}", 1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _names(action: argparse.Action) -> list[str]:
    names = list(action.option_strings)
    if names and action.dest not in ("help", "print_config"):
        names.append(action.dest)
    return names
