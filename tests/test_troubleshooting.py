"""docs/troubleshooting.md has every message of the source, and no message that is not there."""

import re

import pytest

from tests.conftest import ROOT
from tests.helpers.messages import GAP, Message, has_words, messages

PAGE = ROOT / "docs" / "troubleshooting.md"
# - `what it says`, `or this`: the cause; what to do.
ENTRY = re.compile(r"^- ((?:`[^`]+`(?:,\s+)?)+):\s+(.+(?:\n  .+)*)", re.MULTILINE)
# Where a message of a folder or file belongs; the first that fits. What is not named goes to "Other commands".
SECTIONS = {
    "sharding/video/": "Videos that cannot be read",
    "sharding/datasets/": "Annotations",
    "sharding/dataset.py": "Packed data that is damaged or elsewhere",
    "sharding/manifest.py": "Packed data that is damaged or elsewhere",
    "sharding/table.py": "Packed data that is damaged or elsewhere",
    "sharding/objects/": "Remote data",
    "sharding/": "Packing",
    "pipeline/remote/": "Remote data",
    "pipeline/dataset.py": "Remote data",
    "pipeline/": "Loading and the GPU",
    "model/": "The network",
    "launch/training/checkpoint.py": "Checkpoints and resuming",
    "launch/training/run_dir.py": "Checkpoints and resuming",
    "launch/training/safe_load.py": "Checkpoints and resuming",
    "launch/training/rank_environment.py": "Several processes and machines",
    "launch/training/": "Training",
    "launch/inference/onnx.py": "Export",
    "launch/export.py": "Export",
    "launch/inference/pack_files.py": "Prediction",
    "launch/predict.py": "Prediction",
    "launch/visualization/overlay.py": "Prediction",
    "launch/inference/": "Evaluation",
    "launch/evaluate.py": "Evaluation",
    "launch/ensemble.py": "Evaluation",
    "launch/visual": "Pictures",
}
NOT_ON_IT = ("launch/studies/", "launch/demo.py")  # the project's own experiments
SOURCE = [message for message in messages() if not message.file.startswith(NOT_ON_IT)]
QUOTED = [quote for quotes, _ in ENTRY.findall(PAGE.read_text()) for quote in re.findall(r"`([^`]+)`", quotes)]


def matches(quote: str, text: str) -> bool:
    """Return whether a quotation stands for a message; each of its gaps for any words or none."""
    return re.fullmatch(".*".join(map(re.escape, quote.split(GAP))), text) is not None


def section_of(message: Message) -> str:
    return next((title for start, title in SECTIONS.items() if message.file.startswith(start)), "Other commands")


def test_every_message_is_on_the_page():
    lacking = [message for message in SOURCE if not any(matches(quote, message.text) for quote in QUOTED)]
    lines = [
        f"  in '## {section_of(message)}':  - `{message.text}`: CAUSE; WHAT TO DO.   ({message.file}:{message.line})"
        for message in lacking
    ]
    assert not lacking, "add to docs/troubleshooting.md, in your words for CAUSE and WHAT TO DO:\n" + "\n".join(lines)


def test_the_page_has_no_message_that_is_not_in_the_source():
    stale = [quote for quote in QUOTED if not any(matches(quote, message.text) for message in SOURCE)]
    assert not stale, "remove from docs/troubleshooting.md, or correct:\n  " + "\n  ".join(stale)


def test_quotations_say_something_and_all_lines_are_read():
    assert len(QUOTED) > 100
    assert all(has_words(quote) for quote in QUOTED)
    assert PAGE.read_text().count("\n- `") == len(ENTRY.findall(PAGE.read_text()))
    for title in {*SECTIONS.values(), "Other commands"}:
        assert f"\n## {title}\n" in PAGE.read_text(), title


@pytest.mark.parametrize(
    ("quote", "text", "fits"),
    [
        ("--out …: holds other files", "--out …: holds other files", True),
        ("data.…: use …", "data.seed=…: use 0 to …", True),
        ("…: missing", "…: missing in a row", False),
        ("a.b", "axb", False),
    ],
)
def test_gaps_stand_for_anything(quote, text, fits):
    assert matches(quote, text) is fits
