"""Tests here need a GPU: without one they are skipped, or fail if FAIL_WITHOUT_GPU=1."""

import os

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def gpu() -> torch.device:
    if not torch.cuda.is_available():
        if os.environ.get("FAIL_WITHOUT_GPU") == "1":
            pytest.fail("no GPU, and FAIL_WITHOUT_GPU=1")
        pytest.skip("no GPU")
    return torch.device("cuda")
