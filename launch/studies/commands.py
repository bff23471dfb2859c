"""Commands as a user would type them, shown and run."""

import shlex
import subprocess
from pathlib import Path

from tqdm import tqdm

from sharding.errors import UserError


def run_logged(command: list[str], environment: dict[str, str] | None = None, log: Path | None = None) -> None:
    """Show a command and run it; what it says goes to `log`, if that is given.

    Raises:
        UserError: it failed.
    """
    tqdm.write(f"$ {shlex.join([Path(command[0]).name, *command[1:]])}")
    if log is None:
        code = subprocess.run(command, env=environment).returncode
    else:
        with log.open("a") as file:
            code = subprocess.run(command, env=environment, stdout=file, stderr=file).returncode
    if code:
        raise UserError(f"{shlex.join(command[:3])} … ended with {code}" + (f"; see {log}" if log else ""))
