"""Processes that srun or mpirun starts, by the variables that these set."""

import os
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress

import pytest

from launch.training.devices import choose_gpu
from launch.training.rank_environment import adopt_launcher, describe_rank
from launch.training.run_log import read_metrics
from sharding.errors import UserError
from tests.launch.conftest import run_command, started, train_command

SRUN = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "16",
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_TASKS_PER_NODE": "8(x2)",
    "SLURM_STEP_NODELIST": "node[3-4]",
    "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.3",
}
OMPI = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
}
HYDRA = {"PMI_RANK": "1", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "4"}


def without(variables: dict[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in variables.items() if name not in names}


def test_srun_on_two_nodes(tmp_path, monkeypatch):
    (tmp_path / "scontrol").write_text('#!/bin/sh\n[ "$3" = "node[3-4]" ] && echo node3 && echo node4\n')
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = describe_rank(SRUN)
    ranks = {"RANK": "9", "LOCAL_RANK": "1", "WORLD_SIZE": "16", "LOCAL_SIZE": "8", "MASTER_ADDR": "node3"}
    assert found == ranks | {"MASTER_PORT": found["MASTER_PORT"]}
    assert 20000 <= int(found["MASTER_PORT"]) < 32000
    assert describe_rank(SRUN | {"SLURM_PROCID": "0"})["MASTER_PORT"] == found["MASTER_PORT"]
    assert describe_rank(SRUN | {"SLURM_STEP_ID": "1"})["MASTER_PORT"] != found["MASTER_PORT"]
    given = {"MASTER_ADDR": "elsewhere", "MASTER_PORT": "1234"}
    assert describe_rank(SRUN | given) == ranks | given


def test_srun_without_scontrol_or_on_one_node(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert describe_rank(SRUN)["MASTER_ADDR"] == "10.0.0.3"
    assert describe_rank(SRUN | {"SLURM_STEP_NUM_NODES": "1"})["MASTER_ADDR"] == "127.0.0.1"


@pytest.mark.parametrize("variables", [OMPI, HYDRA, SRUN | OMPI])
def test_mpirun_on_one_machine(variables):
    found = describe_rank(variables)
    ranks = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_SIZE": "4", "MASTER_ADDR": "127.0.0.1"}
    assert found == ranks | {"MASTER_PORT": found["MASTER_PORT"]}


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "1"},
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"},  # salloc's shell
        SRUN | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
        OMPI | {"OMPI_COMM_WORLD_SIZE": "1"},
    ],
)
def test_a_single_process_stays_alone(variables):
    assert describe_rank(variables) == {}


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (without(SRUN, "SLURM_LOCALID"), "SLURM_LOCALID is not set"),
        (without(SRUN, "SLURM_STEP_NUM_TASKS"), "a batch script runs this once; put srun before it"),
        (without(SRUN, "SLURM_STEP_NODELIST", "SLURM_LAUNCH_NODE_IPADDR"), "scontrol does not name them"),
        (OMPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, "MASTER_ADDR is not set"),
        (without(OMPI, "OMPI_COMM_WORLD_RANK"), "OMPI_COMM_WORLD_RANK is not set"),
        (without(HYDRA, "MPI_LOCALRANKID"), "MPI_LOCALRANKID is not set"),
    ],
)
def test_several_processes_of_which_too_little_is_known(variables, message):
    with pytest.raises(UserError) as caught:
        describe_rank(variables)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.slow
def test_two_processes_of_srun_train_together(small_config, tmp_path):
    run_dir = tmp_path / "run"
    command = [sys.executable, "launch/train.py", f"--config={small_config}", f"--run_dir={run_dir}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with ExitStack() as stack:
        ranks = []
        for rank in ("0", "1"):
            tasks = {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1"}
            tasks |= {"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_JOB_ID": str(os.getpid())}
            environment = os.environ | tasks
            ranks.append(stack.enter_context(started([*command, "--train.epochs=1"], env=environment, **pipes)))
        outputs = [rank.communicate(timeout=200)[0] for rank in ranks]
        assert [rank.returncode for rank in ranks] == [0, 0], outputs
    [epoch] = [line for line in read_metrics(run_dir) if line["kind"] == "epoch"]
    assert (epoch["samples_seen"], epoch["most_times_seen"]) == (20, 1)  # each sample once, over both
    assert "2 rank(s)" in outputs[0]


def test_ranks_of_one_machine_do_not_take_deepspeeds_port(monkeypatch):
    launched = {"RANK": "0", "WORLD_SIZE": "2", "CROSS_SIZE": "1", "MASTER_PORT": "29500"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    adopt_launcher()
    found = int(os.environ["MASTER_PORT"])
    assert 20000 <= found < 32000 and found != 29500
    for changed in ({"CROSS_SIZE": "2"}, {"MASTER_PORT": "29501"}):  # other machines cannot know it; the user chose
        for name, value in (launched | changed).items():
            monkeypatch.setenv(name, value)
        adopt_launcher()
        assert os.environ["MASTER_PORT"] == (launched | changed)["MASTER_PORT"]


@pytest.mark.slow
def test_deepspeed_starts_where_its_port_is_taken(small_config, tmp_path):
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):  # then another program has it, as well
            taken.bind(("", 29500))
            taken.listen()
        command = [
            word for word in train_command(small_config, tmp_path / "run", num_ranks=2) if "port" not in str(word)
        ]
        done = run_command([*command, "--train.epochs=1"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert read_metrics(tmp_path / "run")


@pytest.mark.parametrize(
    ("num_gpus", "environment", "gpu"),
    [
        (8, {"LOCAL_RANK": "3"}, 3),
        (1, {"LOCAL_RANK": "0"}, 0),
        (1, {"LOCAL_RANK": "3", "CUDA_VISIBLE_DEVICES": "5"}, 0),
    ],
)
def test_a_rank_takes_the_gpu_of_its_number_or_the_only_one_that_it_is_shown(num_gpus, environment, gpu):
    """As srun --gpus-per-task=1 shows each task one."""
    assert choose_gpu(num_gpus, environment) == gpu


def test_more_ranks_than_gpus_are_refused():
    with pytest.raises(UserError, match=r"^LOCAL_RANK=2: this machine has 2 GPU\(s\); start as many ranks on it, or "):
        choose_gpu(2, {"LOCAL_RANK": "2", "CUDA_VISIBLE_DEVICES": "0,1"})


def test_what_the_processes_exchange_has_the_time_limit_of_the_ranks():
    program = (
        "import torch\n"
        "from launch.training.distributed import new_group\n"
        "from launch.training.engine import joined_ranks\n"
        "with joined_ranks(77):\n"
        "    print('limit', new_group()._get_backend(torch.device('cpu')).options._timeout.total_seconds())\n"
    )
    done = run_command([sys.executable, "-c", program])
    assert "limit 77.0" in done.stdout, done.stderr
