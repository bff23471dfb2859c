"""A LightningModule around a network, fed by the loader: Lightning's Trainer instead of launch/train.py.

    pip install 'lightning>=2.5'
    python examples/lightning_module.py shards/train shards/val --epochs 2

On 13 videos, with --size 32 --batch-size 4, after Lightning's own messages:

    top-1 after 2 epoch(s): 46.15 %
"""

import argparse

import lightning
import torch
from torch.nn.functional import cross_entropy

from model import ModelConfig, build_model
from pipeline import DataConfig, VideoBatch, VideoLoader, open_dataset


class VideoClassifier(lightning.LightningModule):
    def __init__(self, num_classes: int):
        super().__init__()
        self.net = build_model(ModelConfig(arch="tsm", depth=18, num_classes=num_classes, num_segments=8))

    def transfer_batch_to_device(self, batch: VideoBatch, device: torch.device, dataloader_idx: int) -> VideoBatch:
        return batch  # the loader has put it there

    def training_step(self, batch: VideoBatch, batch_idx: int) -> torch.Tensor:
        return cross_entropy(self.net(batch.clips), batch.labels)

    def validation_step(self, batch: VideoBatch, batch_idx: int) -> None:
        hits = (self.net(batch.clips).argmax(1) == batch.labels).float()
        self.log("top1", hits.mean(), batch_size=len(hits))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.005, momentum=0.9, weight_decay=1e-4)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train with Lightning's Trainer.")
    parser.add_argument("train", help="folder or URL of the packed training split")
    parser.add_argument("val", help="folder or URL of the packed validation split")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--size", type=int, default=224, help="side of the crop in pixels")
    options = parser.parse_args()

    lightning.seed_everything(0, verbose=False)
    config = DataConfig(num_segments=8, short_side=options.size * 8 // 7, crop_size=options.size)
    shared = {"micro_batch_size": options.batch_size, "device": "cuda" if torch.cuda.is_available() else "cpu"}
    train, val = open_dataset(options.train), open_dataset(options.val)
    # The sanity check would leave the validation loader in the middle of its epoch, where it would resume.
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(devices=1, max_epochs=options.epochs, num_sanity_val_steps=0, **quiet)
    with (
        VideoLoader(train, config, training=True, **shared) as train_loader,
        VideoLoader(val, config, training=False, **shared) as val_loader,
    ):
        trainer.fit(VideoClassifier(len(train.manifest.classes)), train_loader, val_loader)
    print(f"top-1 after {options.epochs} epoch(s): {100 * float(trainer.callback_metrics['top1']):.2f} %")


if __name__ == "__main__":
    main()
