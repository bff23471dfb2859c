"""The loader inside PyTorch's DataLoader, for code that takes nothing else: trainers, accelerate, one's own tools.

    python examples/pytorch_dataloader.py shards/train --epochs 2

On 13 videos, with --size 32 --batch-size 4:

    epoch 0: 3 batches, clips (4, 8, 3, 32, 32), 12 different samples
    epoch 1: 3 batches, clips (4, 8, 3, 32, 32), 12 different samples

DataLoader neither makes batches here (batch_size=None) nor starts workers (num_workers=0): the loader has its own
worker processes, and hands out finished batches in its own order, which a copy in each worker would repeat.
"""

import argparse
from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, IterableDataset

from pipeline import DataConfig, VideoLoader, open_dataset


class ClipBatches(IterableDataset):
    """The batches of an epoch, as (clips, labels, sample ids); each iteration is the next epoch."""

    def __init__(self, loader: VideoLoader):
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        if torch.utils.data.get_worker_info() is not None:
            raise RuntimeError("use num_workers=0: the loader has workers of its own (data.num_workers)")
        for batch in self.loader:
            yield batch.clips, batch.labels, batch.sample_ids


def main() -> None:
    parser = argparse.ArgumentParser(description="Read packed shards through torch.utils.data.DataLoader.")
    parser.add_argument("shards", help="folder or URL of a packed split")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--size", type=int, default=224, help="side of the crop in pixels")
    options = parser.parse_args()
    config = DataConfig(num_segments=8, short_side=options.size * 8 // 7, crop_size=options.size)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dataset = open_dataset(options.shards)
    with VideoLoader(dataset, config, training=True, micro_batch_size=options.batch_size, device=device) as loader:
        batches = DataLoader(ClipBatches(loader), batch_size=None, num_workers=0)
        for epoch in range(options.epochs):
            seen = set()
            for clips, labels, sample_ids in batches:  # clips (B, T, 3, H, W), labels (B,), sample_ids (B,)
                assert len(labels) == len(clips)
                seen.update(sample_ids.tolist())
            print(f"epoch {epoch}: {len(batches)} batches, clips {tuple(clips.shape)}, {len(seen)} different samples")


if __name__ == "__main__":
    main()
