"""Which rank this process is, when `srun` or `mpirun` has started it and nobody has set RANK, and the ranks' port."""

import os
import subprocess
import zlib
from collections.abc import Mapping

from sharding.errors import UserError

# Of an MPI: its rank, number of ranks, rank on this machine, number of ranks on this machine, and its name.
_MPI = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)
_DEEPSPEED_PORT = "29500"  # unless --master_port says another
_REMEDY = "start it with deepspeed or torchrun, or set RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT"


def adopt_launcher() -> None:
    """Set RANK and its like in the environment as `srun` or `mpirun` says, unless they are set.

    Ranks that DeepSpeed's launcher starts on one machine get a port of their own, so that several runs can share it.

    Raises:
        UserError: the environment says that there are several processes, and not enough about them.
    """
    if "RANK" not in os.environ:
        os.environ.update(describe_rank(os.environ))
    elif os.environ.get("CROSS_SIZE") == "1" and os.environ.get("MASTER_PORT") == _DEEPSPEED_PORT:
        os.environ["MASTER_PORT"] = _port_of(str(os.getppid()))  # the launcher, the parent of all ranks


def describe_rank(environment: Mapping[str, str]) -> dict[str, str]:
    """Return RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_SIZE, MASTER_ADDR and MASTER_PORT of a process started by `srun` or
    `mpirun`; nothing if the environment describes a single process.

    Raises:
        UserError: it describes several, and a variable is missing.
    """
    # An mpirun inside a Slurm job leaves both; only an MPI that says everything is the one to believe.
    complete = any(size in environment and local_rank in environment for _, size, local_rank, _ in _MPI)
    readers = (_mpi, _slurm) if complete else (_slurm, _mpi)
    found = readers[0](environment) or readers[1](environment)
    return found | {name: environment[name] for name in ("MASTER_ADDR", "MASTER_PORT") if found and name in environment}


def _slurm(environment: Mapping[str, str]) -> dict[str, str]:
    if "SLURM_PROCID" not in environment:
        return {}
    tasks = environment.get("SLURM_STEP_NUM_TASKS")
    if tasks is None and int(environment.get("SLURM_NTASKS", "1")) > 1:
        raise UserError(
            f"SLURM_NTASKS={environment['SLURM_NTASKS']} without SLURM_STEP_NUM_TASKS: a batch script runs this once; "
            "put srun before it for all tasks (as launch/slurm.sh does), or srun --ntasks=1 for one"
        )
    if int(tasks or "1") == 1:
        return {}
    _require(environment, "SLURM_LOCALID")
    num_nodes = int(environment.get("SLURM_STEP_NUM_NODES") or environment.get("SLURM_NNODES") or "1")
    job = f"{environment.get('SLURM_JOB_ID', '')}.{environment.get('SLURM_STEP_ID', '')}"
    described = {
        "RANK": environment["SLURM_PROCID"],
        "LOCAL_RANK": environment["SLURM_LOCALID"],
        "WORLD_SIZE": tasks,
        "MASTER_ADDR": environment.get("MASTER_ADDR") or ("127.0.0.1" if num_nodes == 1 else _first_node(environment)),
        "MASTER_PORT": _port_of(job),
    }
    per_node = environment.get("SLURM_STEP_TASKS_PER_NODE", "").partition("(")[0]  # "8(x2)"; other nodes may differ
    return described | ({"LOCAL_SIZE": per_node} if per_node.isdigit() else {})


def _first_node(environment: Mapping[str, str]) -> str:
    """Return the name of the node that runs rank 0."""
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST")
    if nodes:
        try:
            command = ["scontrol", "show", "hostnames", nodes]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
        except (OSError, subprocess.CalledProcessError, IndexError):
            pass
    if "SLURM_LAUNCH_NODE_IPADDR" in environment:
        return environment["SLURM_LAUNCH_NODE_IPADDR"]
    raise UserError(f"started by srun on several nodes, and scontrol does not name them; {_REMEDY}")


def _mpi(environment: Mapping[str, str]) -> dict[str, str]:
    for rank, size, local_rank, local_size in _MPI:
        if int(environment.get(size, "1")) > 1:
            for name in (rank, local_rank):
                _require(environment, name)
            if "MASTER_ADDR" not in environment and environment.get(local_size) != environment[size]:
                raise UserError(
                    f"started by mpirun as {environment[size]} processes on several machines, and MASTER_ADDR is not "
                    "set; set it to the machine of rank 0, as with mpirun -x MASTER_ADDR=NAME"
                )
            job = environment.get("PMIX_NAMESPACE") or environment.get("OMPI_MCA_ess_base_jobid") or ""
            described = {
                "RANK": environment[rank],
                "LOCAL_RANK": environment[local_rank],
                "WORLD_SIZE": environment[size],
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": _port_of(job),
            }
            return described | ({"LOCAL_SIZE": environment[local_size]} if local_size in environment else {})
    return {}


def _require(environment: Mapping[str, str], name: str) -> None:
    if name not in environment:
        raise UserError(f"several processes were started without RANK, and {name} is not set either; {_REMEDY}")


def _port_of(job: str) -> str:
    """Return the same port for all ranks of a job, most likely another one for each job."""
    return str(20000 + zlib.crc32(job.encode()) % 12000)
