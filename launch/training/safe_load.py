"""Files of tensors and plain values, loaded without running code that they may contain."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sharding.errors import UserError


def load_plain(path: Path | str, plain_types: Sequence[type], map_location: Any = None) -> Any:
    """Return what `torch.save` wrote to a file, if that is tensors, plain values and objects of `plain_types`.

    Raises:
        UserError: the file is missing or damaged, or contains anything else; nothing of that has been run.
    """
    try:
        with torch.serialization.safe_globals(list(plain_types)):
            return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: refused: it holds more than tensors and plain values, or is damaged; a checkpoint of this "
            "program never does. Resume from one that you trust"
        ) from error
    except (OSError, EOFError, RuntimeError, ValueError) as error:
        raise UserError(f"{path}: damaged checkpoint: {' '.join(str(error).split())[:200]}") from error
