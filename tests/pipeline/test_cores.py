"""Cores per rank: those the process may use, divided by the ranks of its machine that may use the same."""

import os
import sys

import pytest

from pipeline.cores import cores_per_rank, ranks_sharing_cores
from sharding.cores import available_cores
from tests.conftest import run_command

ALLOWED = available_cores()
SLURM = {"SLURM_STEP_NUM_TASKS": "16", "WORLD_SIZE": "16", "LOCAL_SIZE": "8"}
ON_ONE_CORE = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); "


@pytest.fixture(autouse=True)
def _whoever_started_the_tests_may_use_as_much(monkeypatch):
    monkeypatch.setattr("os.getppid", os.getpid)


def python(program: str) -> str:
    return run_command([sys.executable, "-c", program]).stdout.strip()


@pytest.mark.parametrize("name", ["LOCAL_WORLD_SIZE", "LOCAL_SIZE"])
def test_ranks_of_a_machine_divide_its_cores(name):
    assert cores_per_rank({}) == ALLOWED
    assert cores_per_rank({name: "1"}) == ALLOWED
    assert cores_per_rank({name: str(ALLOWED)}) == 1
    assert cores_per_rank({name: str(1000 * ALLOWED)}) == 1


def test_torchrun_is_asked_before_deepspeed():
    assert cores_per_rank({"LOCAL_WORLD_SIZE": "1", "LOCAL_SIZE": str(ALLOWED)}) == ALLOWED


@pytest.mark.parametrize(("on_node", "sharing"), [(8, 1), (4, 2), (1, 8), (0.5, 8)])
def test_cores_that_srun_has_bound_tasks_to(on_node, sharing):
    """Each task to cores of its own, two to a processor, or all to all cores of the job or of the machine."""
    cores = max(1, int(on_node * len(os.sched_getaffinity(0))))
    environment = SLURM | {"SLURM_CPUS_ON_NODE": str(cores)}
    assert ranks_sharing_cores(environment) == sharing
    assert cores_per_rank(environment) == max(1, ALLOWED // sharing)


def test_a_task_of_srun_that_starts_several_ranks_shares_its_cores_among_them():
    torchrun = {"WORLD_SIZE": "64", "LOCAL_WORLD_SIZE": "4", "SLURM_CPUS_ON_NODE": "1000"}
    assert ranks_sharing_cores(SLURM | torchrun) == 4


@pytest.mark.skipif(ALLOWED < 2, reason="one core cannot be divided")
def test_cores_that_another_launcher_has_bound_a_rank_to():
    """As mpirun and deepspeed --bind_cores_to_rank do: this process may use more than the rank that it starts."""
    program = (
        f"from pipeline.cores import ranks_sharing_cores; print(ranks_sharing_cores({{'LOCAL_SIZE': '{ALLOWED}'}}))"
    )
    assert python(ON_ONE_CORE + program) == "1"
    assert python(program) == str(ALLOWED)


def test_cores_that_the_process_may_not_use_do_not_count():
    program = "from pipeline.cores import cores_per_rank; print(cores_per_rank({}))"
    assert python(ON_ONE_CORE + program) == "1"
