"""The table of docs/models.md, counted by model.complexity.

python docs/generate/site_models.py     # writes it; tests/test_site.py says if it is out of date
"""

from pathlib import Path

from launch.studies.marks import with_written
from model import ModelConfig
from model.complexity import measure
from model.config import DEPTHS
from sharding.files import write_atomically

PAGE = Path(__file__).resolve().parents[1] / "models.md"
PROGRAM = "docs/generate/site_models.py"
WHAT = {
    "vpsn": "synthesizers after the stem and three stages: 16 kernel shapes in space-time, routed by a learned matrix",
    "tsn": "a ResNet on each frame, logits averaged",
    "tsm": "channels shifted to the neighbour frames",
    "gst": "3 × 3 kernels split into spatial and spatio-temporal ones",
    "tea": "motion excitation, and temporal kernels in a hierarchy of four splits (Res2Net)",
    "stm": "channel-wise temporal kernels next to differences of frames",
    "p3d": "spatial and temporal kernels apart, in three arrangements in turn",
    "p3d_a": "P3D of the first arrangement alone",
    "p3d_b": "P3D of the second",
    "p3d_c": "P3D of the third",
    "rf_s": "residual pair of a spatial and a temporal kernel after each stage",
    "rf_l": "two such pairs: a larger receptive field",
    "rf_l_inception": "several scales next to each other, without exchange",
    "rf_l_inception_t": "the same, temporal kernels alone",
    "slowonly": "3D kernels in the last two stages",
    "dg_p3d": "P3D in all stages, global context, two heads; its stem merges four frames into one",
}


def table() -> str:
    lines = [
        "| `model.arch` | depths | parameters, M | multiply-adds, G | temporal modelling |",
        "|---|---|---|---|---|",
    ]
    if missing := DEPTHS.keys() - WHAT.keys():
        raise ValueError(f"{', '.join(sorted(missing))}: say in WHAT of {Path(__file__).name} what models time in it")
    for arch, depths in DEPTHS.items():
        cost = measure(ModelConfig(arch, 50, num_classes=174, num_segments=8))
        numbers = f"{cost.parameters / 1e6:.2f} | {cost.multiply_adds / 1e9:.2f}"
        lines.append(f"| `{arch}` | {', '.join(map(str, depths))} | {numbers} | {WHAT[arch]} |")
    return "\n".join(lines)


def with_table(page: str) -> str:
    """Return the text of the page with the table as it is now."""
    return with_written(page, PROGRAM, table(), PAGE.name)


if __name__ == "__main__":
    write_atomically(PAGE, with_table(PAGE.read_text()))
    print(PAGE)
