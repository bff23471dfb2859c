"""Tests here need a GPU: without one they are skipped, or fail if FAIL_WITHOUT_GPU=1.

Tests of NVDEC need one that works, which is more: in a container, the driver capability `video`.
"""

import os

import pytest
import torch

from pipeline.nvdec_probe import probe_nvdec


@pytest.fixture(autouse=True, scope="session")
def gpu() -> torch.device:
    if not torch.cuda.is_available():
        if os.environ.get("FAIL_WITHOUT_GPU") == "1":
            pytest.fail("no GPU, and FAIL_WITHOUT_GPU=1")
        pytest.skip("no GPU")
    return torch.device("cuda")


@pytest.fixture(scope="session")
def nvdec(gpu) -> str:
    """The name of the decode node, where it works."""
    found = probe_nvdec(0)
    if not found.works:
        pytest.skip(f"no NVDEC: {found.reason}; {found.remedy}")
    return "nvdec"
