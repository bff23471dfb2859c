"""Table -> ClipPlan -> VideoBatch: the plan decides who sees which frames, DALI makes the pixels.

    loader = VideoLoader(open_dataset("shards/train"), DataConfig(num_segments=8), training=True, micro_batch_size=8)
    for batch in loader:  # one epoch
        logits = net(batch.clips)  # (B, T, 3, H, W) -> (B, num_classes)

Names are imported when they are first used: importing the package costs nothing and needs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.config import DataConfig
    from pipeline.dataset import open_dataset
    from pipeline.loader import VideoBatch, VideoLoader
    from pipeline.reading import SampleError

__all__ = ["DataConfig", "SampleError", "VideoBatch", "VideoLoader", "open_dataset"]

_HOMES = {
    "DataConfig": "pipeline.config",
    "SampleError": "pipeline.reading",
    "VideoBatch": "pipeline.loader",
    "VideoLoader": "pipeline.loader",
    "open_dataset": "pipeline.dataset",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
