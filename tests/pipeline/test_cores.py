"""Cores per rank: those the process is allowed, divided by the ranks of the machine."""

import os
import sys

import pytest

from pipeline.cores import cores_per_rank
from tests.conftest import run_command

ALLOWED = len(os.sched_getaffinity(0))


@pytest.mark.parametrize("name", ["LOCAL_WORLD_SIZE", "LOCAL_SIZE"])
def test_ranks_of_a_machine_divide_its_cores(name):
    assert cores_per_rank({}) == ALLOWED
    assert cores_per_rank({name: "1"}) == ALLOWED
    assert cores_per_rank({name: str(ALLOWED)}) == 1
    assert cores_per_rank({name: str(1000 * ALLOWED)}) == 1


def test_torchrun_is_asked_before_deepspeed():
    assert cores_per_rank({"LOCAL_WORLD_SIZE": "1", "LOCAL_SIZE": str(ALLOWED)}) == ALLOWED


def test_cores_that_the_process_may_not_use_do_not_count():
    program = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); "
        "from pipeline.cores import cores_per_rank; print(cores_per_rank({}))"
    )
    assert run_command([sys.executable, "-c", program]).stdout.strip() == "1"
