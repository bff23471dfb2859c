"""The command-line parser every command of the project uses: one clear line and exit code 2 for a user's mistake."""

import difflib
import os
import re
import sys
from collections.abc import Callable
from typing import NoReturn

from jsonargparse import ArgumentParser, set_parsing_settings

from sharding.errors import UserError

# The sentence under each dataclass field is its documentation and its --help.
set_parsing_settings(docstring_parse_attribute_docstrings=True)


class CommandLine(ArgumentParser):
    """An ArgumentParser whose errors are one line, with the nearest option or key where a name is unknown."""

    def __init__(self, **arguments):
        super().__init__(allow_abbrev=False, **arguments)  # --model.dept is a mistake, not a short form

    def parse_args(self, *arguments, **options):
        try:
            return super().parse_args(*arguments, **options)
        except UnicodeDecodeError as error:  # only configuration files are read
            self.error(f"--config: not a text file ({error.reason} at byte {error.start}); give a YAML file")

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        line = " ".join(message.split())
        line = re.sub(r"^Call to compute_fn of link '.*?' with args \(.*?\) failed: ", "", line)  # the parser's affair
        nearest = _nearest_option(line, [name for action in self._actions for name in _names(action)])
        hint = f"; did you mean {nearest}?" if nearest else f"; see {self.prog} --help"
        if not self.exit_on_error:
            raise UserError(line + hint)
        print(f"{self.prog}: error: {line}{hint}", file=sys.stderr)
        sys.exit(2)


def run_command(main: Callable[[list[str] | None], int | None], prog: str) -> NoReturn:
    """Runs `main(None)`, on the process's own arguments, and exits with its result.

    A UserError becomes one line on stderr and exit code 2.
    """
    try:
        code = main(None)
    except UserError as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # whoever read the output, such as head, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(code or 0)


def _names(action) -> list[str]:
    names = list(action.option_strings)
    if names and action.dest not in ("help", "print_config"):
        names.append(action.dest)
    return names


def _nearest_option(message: str, known: list[str]) -> str | None:
    """The known option or dotted key most like the unknown one that `message` names, if any is near.

    "unrecognized arguments: --model.dept=18" -> "--model.depth"
    """
    unknown = re.search(r"unrecognized arguments: (-[^\s=]+)", message)
    if unknown:
        name = unknown[1]
    else:
        unknown = re.search(r"Group '([^']+)' does not accept option '([^']+)'", message)
        if unknown:
            name = f"{unknown[1]}.{unknown[2]}"
        else:
            unknown = re.search(r"(?:does not accept option|[Kk]ey) '([^']+)'", message)
            if not unknown:
                return None
            name = unknown[1]
    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return matches[0] if matches else None
