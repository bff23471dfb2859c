"""Many machines: two network namespaces as two hosts, and the Slurm script under stand-ins for srun and scontrol."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager

import psutil
import pytest

from launch.training.checkpoint import pointed
from tests.conftest import ROOT
from tests.launch.conftest import losses, same_weights, started, train, wait_for_step

SRUN = """#!/bin/bash
# As srun does: runs the command in every task, passes SIGUSR1 on to them, ends with the highest exit code.
echo "$@" > "$SRUN_CALL"
while [[ $1 == --* ]]; do shift; done
pids=()
for task in 0 1; do
    SLURM_PROCID=$task SLURM_LOCALID=$task SLURM_NTASKS=2 SLURM_NTASKS_PER_NODE=2 SLURM_STEP_NUM_TASKS=2 \\
        "$@" & pids+=($!)
done
trap 'kill -USR1 "${pids[@]}"' USR1
code=0
for pid in "${pids[@]}"; do
    while true; do wait "$pid"; one=$?; kill -0 "$pid" 2>/dev/null || break; done
    (( one > code )) && code=$one
done
exit $code
"""
SCONTROL = """#!/bin/bash
case $1 in show) echo 127.0.0.1;; *) echo "$@" >> "$SCONTROL_CALLS";; esac
"""


@pytest.mark.slow
def test_the_slurm_script_requeues_itself(small_config, tmp_path):
    """Asked in the middle of an epoch by SIGUSR1, it puts itself back; its next turn comes to the end."""
    run_dir, calls, tools = tmp_path / "run", tmp_path / "calls", tmp_path / "bin"
    tools.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    slurm = {"SLURM_JOB_ID": str(1000 + os.getpid() % 9000), "SLURM_JOB_NODELIST": "here"}
    slurm["SLURM_SUBMIT_DIR"] = str(ROOT)
    environment = os.environ | slurm | {"SCONTROL_CALLS": str(calls), "PYTHON": sys.executable}
    environment |= {"SRUN_CALL": str(tmp_path / "srun"), "SLURM_CPUS_PER_TASK": "3"}
    environment["PATH"] = f"{tools}:{environment['PATH']}"
    command = ["bash", "launch/slurm.sh", f"--config={small_config}", f"--run_dir={run_dir}", "--train.epochs=3"]
    with started(command, env=environment) as job:
        wait_for_step(run_dir, 2, job)
        psutil.Process(job.pid).children()[0].send_signal(signal.SIGUSR1)  # its one child is srun
        assert job.wait(60) == 0
    assert calls.read_text() == f"requeue {slurm['SLURM_JOB_ID']}\n"
    assert int(pointed(run_dir / "checkpoints", "last").removeprefix("step-")) < 15
    with started(command, env=environment) as job:
        assert job.wait(120) == 0
    assert calls.read_text().count("requeue") == 1
    assert list(losses(run_dir)) == list(range(1, 16))
    assert "--cpus-per-task=3" in (tmp_path / "srun").read_text().split()


@contextmanager
def two_hosts():
    """Two network namespaces with an address each, 10.77.0.1 and 10.77.0.2, on one wire."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and the ip program")
    names = [f"vpsn{os.getpid()}{letter}" for letter in "ab"]

    def ip(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(["ip", *arguments], capture_output=True, text=True)

    try:
        for name in names:
            made = ip("netns", "add", name)
            if made.returncode:
                pytest.skip(f"no network namespaces here: {made.stderr.strip()}")
        wire = [name.removeprefix("vpsn") for name in names]
        made = ip("link", "add", wire[0], "netns", names[0], "type", "veth", "peer", "name", wire[1], "netns", names[1])
        if made.returncode:
            pytest.skip(f"no virtual network devices here: {made.stderr.strip()}")
        for number, (name, device) in enumerate(zip(names, wire), start=1):
            for arguments in (f"addr add 10.77.0.{number}/24 dev {device}", f"link set {device} up", "link set lo up"):
                done = ip("-n", name, *arguments.split())
                assert done.returncode == 0, done.stderr
        yield names, wire
    finally:
        for name in names:
            ip("netns", "del", name)


@pytest.mark.slow
@pytest.mark.parametrize("end", ["trained", "killed"])
def test_two_hosts_train_as_one_machine(small_config, tmp_path, end):
    run_dir = tmp_path / "run"
    epochs = 1 if end == "trained" else 500
    options = [f"--config={small_config}", f"--run_dir={run_dir}", f"--train.epochs={epochs}"]
    with two_hosts() as (names, devices), ExitStack() as stack:
        ranks = []
        for rank, (name, device) in enumerate(zip(names, devices)):
            settings = {"RANK": rank, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "10.77.0.1"}
            settings |= {"MASTER_PORT": 29500, "GLOO_SOCKET_IFNAME": device}
            environment = os.environ | {key: str(value) for key, value in settings.items()}
            command = ["ip", "netns", "exec", name, sys.executable, "launch/train.py", *options]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
            command.append("--train.heartbeat_timeout_seconds=3")
            ranks.append(stack.enter_context(started(command, env=environment, **pipes)))
        if end == "killed":
            wait_for_step(run_dir, 2, ranks[0])
            ranks[1].send_signal(signal.SIGKILL)
        output, _ = ranks[0].communicate(timeout=120)
        assert ranks[0].returncode == (0 if end == "trained" else 1), output
    if end == "killed":
        assert "rank 1 on " in output and "has died: no sign of life for 3 seconds" in output
    else:
        assert train(small_config, tmp_path / "one", "--train.epochs=1", num_ranks=2).returncode == 0
        assert losses(run_dir) == losses(tmp_path / "one")
        assert same_weights(run_dir, tmp_path / "one")


def test_paths_of_the_script_exist():
    text = (ROOT / "launch" / "slurm.sh").read_text()
    assert os.access(ROOT / "launch" / "slurm.sh", os.X_OK)
    assert (ROOT / "launch" / "configs" / "kinetics" / "kinetics400_8f.yaml").exists() and "kinetics400_8f.yaml" in text
