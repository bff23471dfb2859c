"""Figures as PNG files, drawn without a display."""

from pathlib import Path

import matplotlib as mpl

from sharding.files import replacing

mpl.use("Agg")
from matplotlib import pyplot as plt


def save(figure, path: Path) -> Path:
    """Write a figure as PNG and close it."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)
    return path
