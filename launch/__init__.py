"""Training, evaluation, prediction, pictures and measurements.

    predictor = Predictor("runs/k400")
    for prediction in predictor(["a.mp4", "b.webm"]):
        print(prediction.top(5))

    net, info, config = load_checkpoint("runs/k400")

Names are imported when they are first used: importing the package costs nothing and needs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from launch.inference.predictor import Prediction, Predictor
    from launch.training.checkpoint import load_checkpoint

__all__ = ["Prediction", "Predictor", "load_checkpoint"]

_HOMES = {
    "Prediction": "launch.inference.predictor",
    "Predictor": "launch.inference.predictor",
    "load_checkpoint": "launch.training.checkpoint",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
