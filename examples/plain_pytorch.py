"""Training in plain PyTorch: the loader and a network, without DeepSpeed and without launch/.

    python examples/plain_pytorch.py shards/train --epochs 2

On 13 videos, with --size 32 --batch-size 4:

    13 samples, 2 classes, 3 steps an epoch, cpu
    epoch 0: loss 1.1200
    epoch 1: loss 0.8458
"""

import argparse

import torch
from torch.nn.functional import cross_entropy

from model import ModelConfig, build_model
from pipeline import DataConfig, VideoLoader, open_dataset


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a network on packed shards with a plain loop.")
    parser.add_argument("shards", help="folder or URL of a packed split")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--size", type=int, default=224, help="side of the crop in pixels")
    options = parser.parse_args()

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dataset = open_dataset(options.shards)
    classes = dataset.manifest.classes
    net = build_model(ModelConfig(arch="vpsn", depth=18, num_classes=len(classes), num_segments=8)).to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.005, momentum=0.9, weight_decay=1e-4)
    config = DataConfig(num_segments=8, short_side=options.size * 8 // 7, crop_size=options.size)
    with VideoLoader(dataset, config, training=True, micro_batch_size=options.batch_size, device=device) as loader:
        print(f"{len(dataset)} samples, {len(classes)} classes, {len(loader)} steps an epoch, {device}")
        for epoch in range(options.epochs):
            total = 0.0
            for batch in loader:  # clips (B, T, 3, H, W), labels (B,)
                loss = cross_entropy(net(batch.clips), batch.labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.item()
            print(f"epoch {epoch}: loss {total / len(loader):.4f}")


if __name__ == "__main__":
    main()
