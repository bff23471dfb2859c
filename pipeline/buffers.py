"""Memory in which a batch is put together: what workers write of each sample, at places that follow from the layout.

It is plain memory, private or shared between processes. Nothing is sent but names of places.
"""

import math
from dataclasses import asdict, dataclass

import numpy as np

_ALIGNMENT = 64


@dataclass(frozen=True)
class BatchLayout:
    """What a batch of at most `batch_size` samples needs.

    Args:
        batch_size: samples.
        num_frames: F, frames of a sample, of all of its clips together.
        num_crops: C, crops of each frame.
        media_bytes: upper bound of a sample's media: decoded windows, or encoded bytes.
        num_classes: classes of a dataset whose samples have several labels each; 0 if they have one.
        num_operations: operations of RandAugment on each sample.
    """

    batch_size: int
    num_frames: int
    num_crops: int
    media_bytes: int
    num_classes: int = 0
    num_operations: int = 0

    def arrays(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return dtype and shape of each array, in the order in which they follow each other.

        done: whether a sample is there. label: class id, changed with a mirrored clip, or of several labels a one
        for each class that the sample is of, else zeros. scaled: whether its crops are scaled. color, operations,
        erased: as in ClipPlan. start, end: [top, left] and [bottom, right) of each crop in pixels of what is decoded.
        place: where an unscaled crop is, (top, left) as a fraction of the space there is. flip: whether a crop is
        mirrored. window: [top, left, bottom, right) of the part of the frame that is decoded. num_items: distinct
        frames. item_ends: where the bytes of each item end in `media`. frames: the distinct frames. order: which of
        them each of the F frames is. media: windows (F, H, W, 3), or bytes.
        """
        b, c, f = self.batch_size, self.num_crops, self.num_frames
        return {
            "done": ("u1", (b,)),
            "label": ("f4", (b, self.num_classes)) if self.num_classes else ("i8", (b,)),
            "scaled": ("?", (b,)),
            "color": ("f4", (b, 4)),
            "operations": ("i4", (b, self.num_operations, 3)),
            "erased": ("f4", (b, 4)),
            "start": ("f4", (c, b, 2)),
            "end": ("f4", (c, b, 2)),
            "place": ("f4", (c, b, 2)),
            "flip": ("i4", (c, b)),
            "window": ("i4", (b, 4)),
            "num_items": ("i4", (b,)),
            "item_ends": ("i8", (b, f)),
            "frames": ("i4", (b, f)),
            "order": ("i4", (b, f)),
            "media": ("u1", (b, self.media_bytes)),
        }

    @property
    def num_bytes(self) -> int:
        """Bytes of the arrays together."""
        return sum(_aligned(np.dtype(kind).itemsize * math.prod(shape)) for kind, shape in self.arrays().values())

    def views(self, memory, offset: int = 0) -> dict[str, np.ndarray]:
        """Return the arrays in `memory`, a buffer, from a byte on."""
        found = {}
        for name, (kind, shape) in self.arrays().items():
            found[name] = np.ndarray(shape, kind, memory, offset)
            offset += _aligned(found[name].nbytes)
        return found

    def to_dict(self) -> dict[str, int]:
        """Return what makes the same layout elsewhere: BatchLayout(**layout.to_dict())."""
        return asdict(self)


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // _ALIGNMENT) * _ALIGNMENT
