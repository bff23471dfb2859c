"""`--run_dir RUN --resume` alone: the run's own configuration counts."""

from pathlib import Path


def with_config_of_run(arguments: list[str]) -> list[str]:
    """Return a command line that resumes a run and names no configuration with that of the run, RUN/config.yaml.

    ["--run_dir=RUN", "--resume"]  ->  ["--config=RUN/config.yaml", "--run_dir=RUN", "--resume"]
    """
    resumes = _value(arguments, "resume") in ("auto", "extend", "") or "--resume" in arguments
    run_dir = _value(arguments, "run_dir") or _value(arguments, "run-dir")
    if not resumes or not run_dir or _value(arguments, "config") is not None:
        return arguments
    config = Path(run_dir) / "config.yaml"
    return [f"--config={config}", *arguments] if config.is_file() else arguments


def _value(arguments: list[str], name: str) -> str | None:
    """Return the value of an option, given as --name=value or --name value; None if it is not given."""
    option = f"--{name}"
    for index, argument in enumerate(arguments):
        if argument.startswith(f"{option}="):
            return argument.partition("=")[2]
        if argument == option:
            return arguments[index + 1] if index + 1 < len(arguments) else ""
    return None
