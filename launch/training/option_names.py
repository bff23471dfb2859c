"""Keys of the configuration by other names: those they had, which stay accepted, and those people try first."""

from collections.abc import Mapping
from typing import Any

from sharding import cli

RENAMED = {
    "data.reading_threads": "data.num_workers",
    "data.read_ahead": "data.prefetch_batches",
    "train.silence_seconds": "train.heartbeat_timeout_seconds",
    "stages": "phases",
}
"""Names before version 0.2, which runs and users' files may still hold."""

SYNONYMS = {
    "lr": "optimizer.learning_rate",
    "learning_rate": "optimizer.learning_rate",
    "base_lr": "optimizer.learning_rate",
    "optimizer": "optimizer.name",
    "momentum": "optimizer.momentum",
    "weight_decay": "optimizer.weight_decay",
    "wd": "optimizer.weight_decay",
    "betas": "optimizer.adamw.betas",
    "eps": "optimizer.adamw.epsilon",
    "llrd": "optimizer.layer_decay",
    "layer_decay_rate": "optimizer.layer_decay",
    "lr_mult": "optimizer.head_learning_rate_factor",
    "head_lr_factor": "optimizer.head_learning_rate_factor",
    "clip_grad": "optimizer.clip_norm",
    "grad_clip": "optimizer.clip_norm",
    "max_norm": "optimizer.clip_norm",
    "batch_size": "train.batch_size",
    "bs": "train.batch_size",
    "epochs": "train.epochs",
    "max_epochs": "train.epochs",
    "num_epochs": "train.epochs",
    "total_epochs": "train.epochs",
    "seed": "train.seed",
    "amp": "train.precision",
    "fp16": "train.precision",
    "bf16": "train.precision",
    "dtype": "train.precision",
    "ema": "train.ema_decay",
    "mixup_alpha": "train.mixup",
    "cutmix_alpha": "train.cutmix",
    "accumulate": "train.micro_batch_size",
    "accumulation_steps": "train.micro_batch_size",
    "gradient_accumulation_steps": "train.micro_batch_size",
    "log_interval": "train.log_every_steps",
    "save_interval": "train.save_every_steps",
    "sync_bn": "train.sync_batch_norm",
    "num_frames": "data.num_segments",
    "frames": "data.num_segments",
    "clip_len": "data.num_segments",
    "segments": "data.num_segments",
    "frame_interval": "data.frame_stride",
    "sampling_rate": "data.frame_stride",
    "workers": "data.num_workers",
    "num_workers": "data.num_workers",
    "image_size": "data.crop_size",
    "img_size": "data.crop_size",
    "input_size": "data.crop_size",
    "img_norm_cfg": "data.mean",
    "pixel_mean": "data.mean",
    "pixel_std": "data.std",
    "train_data": "data.train",
    "train_dir": "data.train",
    "val_data": "data.val",
    "val_dir": "data.val",
    "arch": "model.arch",
    "depth": "model.depth",
    "dropout": "model.dropout",
    "dropout_ratio": "model.dropout",
    "pretrained": "model.pretrained",
    "load_from": "model.pretrained",
    "frozen_stages": "model.frozen_stages",
    "freeze": "model.frozen_stages",
    "norm_eval": "train.batch_norm",
    "with_cp": "train.gradient_checkpointing",
    "activation_checkpointing": "train.gradient_checkpointing",
    "class_weight": "loss.class_weights",
    "class_weights": "loss.class_weights",
    "class_balanced": "data.class_sampling_exponent",
    "oversample": "data.class_sampling_exponent",
    "patience": "train.patience_epochs",
    "early_stopping": "train.patience_epochs",
    "save_best": "train.monitor",
    "scheduler": "schedule.name",
    "lr_scheduler": "schedule.name",
    "warmup": "schedule.warmup_epochs",
    "warmup_epochs": "schedule.warmup_epochs",
    "teacher": "distillation.teacher",
    "teacher_ckpt": "distillation.teacher",
    "temperature": "distillation.temperature",
    "kd_temperature": "distillation.temperature",
    "label_smooth": "loss.label_smoothing",
    "label_smoothing": "loss.label_smoothing",
    "work_dir": "run_dir",
    "output_dir": "run_dir",
    "out_dir": "run_dir",
    "resume_from": "resume",
}
"""The field's usual names, for "did you mean"; the last part of a key counts: train.lr is lr."""

HINTS = {
    "gpus": "the launcher takes the number of GPUs: deepspeed --num_gpus N launch/train.py",
    "num_gpus": "the launcher takes the number of GPUs: deepspeed --num_gpus N launch/train.py",
    "num_classes": "the number of classes is that of data.train",
    "multi_class": "videos have several labels if data.train was packed with them (docs/multilabel.md)",
}
"""What to do instead where no key has that meaning."""


def with_current_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sections of a configuration with renamed keys under the names they have now."""
    return cli.with_current_names(values, RENAMED)
