"""The networks: clips (B, T, 3, H, W) -> logits (B, num_classes)."""
