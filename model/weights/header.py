"""What a .safetensors file of this project says of itself in its header: of which architecture, for which pixels.

All of it is one entry, as the order of several is not fixed and the same weights are to be the same bytes.
"""

import json
from collections.abc import Mapping

from model.weights.families import Statistics

_ENTRY = "vpsn"


def describe_weights(arch: str, statistics: Statistics) -> dict[str, str]:
    """Return the metadata of a file."""
    mean, std = map(list, statistics)
    return {_ENTRY: json.dumps({"arch": arch, "mean": mean, "std": std})}


def read_description(metadata: Mapping[str, str]) -> tuple[str, Statistics | None]:
    """Return the architecture, "" if the file does not say, and the statistics, None if it does not."""
    try:
        values = json.loads(metadata[_ENTRY])
        arch, mean, std = str(values["arch"]), *(tuple(map(float, values[name])) for name in ("mean", "std"))
    except (LookupError, TypeError, ValueError, RecursionError):
        return "", None
    bounded = all(0 <= value <= 1 for value in (*mean, *std)) and all(std) and len(mean) == len(std) == 3
    return (arch, (mean, std)) if bounded and len(arch) < 200 and arch.isprintable() else ("", None)
