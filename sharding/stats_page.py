"""The dataset card of a packed split as one self-contained HTML page: figures, plots, thumbnails of every class."""

import base64
import html
import io
import os
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from sharding.dataset import PackedDataset, read_shards_url
from sharding.errors import MediaError, UserError
from sharding.stats import Stats, dataset_card
from sharding.video.decode import decode_frames
from sharding.video.frame_folder import open_jpeg

_THUMBNAIL_HEIGHT = 72
_BLUE = "#3b6ea8"

_STYLE = """
:root { color-scheme: light; font: 15px/1.45 system-ui, sans-serif; color: #1c2430; background: #fff; }
body { max-width: 1100px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0 0 1rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .75rem; }
table { border-collapse: collapse; } td, th { padding: .2rem .9rem .2rem 0; text-align: left; vertical-align: top; }
table.dataset_card td:first-child { color: #667; white-space: nowrap; } td { overflow-wrap: anywhere; }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; } .plots svg { width: 340px; height: auto; }
.class { display: flex; gap: .75rem; align-items: center; padding: .4rem 0; border-top: 1px solid #e3e6ea; }
.class .name { width: 15rem; overflow-wrap: anywhere; } .class small { color: #667; display: block; }
.class .lacking { color: #a33; } .frames { display: flex; flex-wrap: wrap; gap: .3rem; }
.frames img { height: 72px; border-radius: 3px; }
"""


def to_page(stats: Stats, dataset: PackedDataset, thumbnails: int = 4) -> str:
    """Return the page, with the middle frames of up to `thumbnails` samples of each class.

    Raises:
        UserError: the shards are not on this machine.
    """
    if url := read_shards_url(dataset.directory):
        raise UserError(
            f"--html: its pictures come from the shards of {dataset.directory}, which are at {url}; leave it out, or "
            "download them next to the table and remove shards.url"
        )
    title = html.escape(f"{stats.dataset} {stats.split}, profile {stats.profile}")
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>" for name, value in dataset_card(stats)
    )
    plots = "".join(_plots(stats, dataset))
    classes = "".join(_classes(stats, dataset, thumbnails))
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1>"
        f'<table class="dataset_card">{rows}</table>'
        f'<h2>Distributions</h2><div class="plots">{plots}</div>'
        f"<h2>Classes</h2>{classes}</body></html>\n"
    )


def middle_frame(dataset: PackedDataset, sample_id: int) -> Image.Image:
    """Return the middle frame of a sample. Raises MediaError if it does not decode."""
    middle = int(dataset.num_frames[sample_id]) // 2
    with dataset.shard_path(dataset.shards[sample_id]).open("rb") as file:

        def read(offset: int, size: int) -> bytes:
            return os.pread(file.fileno(), int(size), int(offset))

        offset = dataset.media_offsets[sample_id]
        if not dataset.index_bytes[sample_id]:
            media = read(offset, dataset.media_bytes[sample_id])
            return Image.fromarray(decode_frames(media, np.array([middle]))[0])
        start, end = np.frombuffer(read(dataset.index_offsets[sample_id] + 4 * middle, 8), "<i4")
        with open_jpeg(io.BytesIO(read(offset + start, end - start)), f"frame {middle}") as image:
            return image.convert("RGB")


def _plots(stats: Stats, dataset: PackedDataset) -> Iterator[str]:
    seconds = dataset.num_frames / np.maximum(dataset.fps, 1e-6)
    yield _histogram(dataset.num_frames, "frames of a sample", "samples")
    yield _histogram(seconds, "seconds of a sample", "samples")
    yield _histogram(dataset.media_bytes / 1000, "kB of a sample", "samples")
    yield _histogram(np.minimum(dataset.widths, dataset.heights), "short side, pixels", "samples")
    yield _histogram(dataset.widths / dataset.heights, "width / height", "samples")
    if stats.has_labels:
        yield _histogram(stats.samples_a_class, "samples of a class", "classes")


def _histogram(values: np.ndarray, what: str, unit: str) -> str:
    with rc_context({"svg.hashsalt": "stats", "font.size": 9, "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure = Figure(figsize=(3.6, 2.4), layout="constrained")
        axes = figure.add_subplot()
        low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
        if high == low:
            low, high = low - 0.5, high + 0.5
        axes.hist(values, bins=min(30, max(5, len(values) // 4)), range=(low, high), color=_BLUE)
        axes.set_xlabel(what)
        axes.set_ylabel(unit)
        axes.locator_params(axis="y", integer=True)
        axes.spines[["top", "right"]].set_visible(False)
        drawing = io.StringIO()
        figure.savefig(drawing, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = drawing.getvalue()
    return text[text.index("<svg") :]


def _classes(stats: Stats, dataset: PackedDataset, thumbnails: int) -> Iterator[str]:
    if not stats.has_labels:
        images = "".join(_thumbnail(dataset, sample_id) for sample_id in range(len(dataset))[:thumbnails])
        yield f'<div class="class"><div class="name">without labels</div><div class="frames">{images}</div></div>'
        return
    for c, samples in zip(stats.classes, _samples_by_class(dataset, len(stats.classes))):
        lacking = ", ".join(f"{n} {what}" for n, what in [(c.missing, "missing"), (c.failed, "failed")] if n)
        none = "" if c.samples else ' class="lacking"'
        images = "".join(_thumbnail(dataset, int(sample_id)) for sample_id in samples[:thumbnails])
        yield (
            f'<div class="class"><div class="name">{html.escape(c.name)}<small{none}>{c.label}: {c.samples:,} samples'
            f'</small><small class="lacking">{lacking}</small></div><div class="frames">{images}</div></div>'
        )


def _samples_by_class(dataset: PackedDataset, num_classes: int) -> list[np.ndarray]:
    if dataset.label_sets is not None:
        return [dataset.label_sets.samples_with(label) for label in range(num_classes)]
    order = np.argsort(dataset.labels, kind="stable")
    starts = np.searchsorted(dataset.labels[order], np.arange(num_classes + 1))
    return [order[start:end] for start, end in pairwise(starts)]


def _thumbnail(dataset: PackedDataset, sample_id: int) -> str:
    key = html.escape(dataset.key(sample_id))
    try:
        image = middle_frame(dataset, sample_id)
    except MediaError as error:
        return f"<span>{key}: {html.escape(error.message)}</span>"
    width = max(1, round(image.width * _THUMBNAIL_HEIGHT / image.height))
    file = io.BytesIO()
    image.resize((width, _THUMBNAIL_HEIGHT)).save(file, "JPEG", quality=75)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img src="data:image/jpeg;base64,{data}" alt="{key}" title="{key}">'
