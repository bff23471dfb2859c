"""A process group of one rank, in the tests' own process."""

import os

import pytest

from launch.training.distributed import Ranks
from launch.training.engine import start_ranks

NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(scope="session")
def group_of_one() -> tuple[Ranks, dict[str, str]]:
    """This process as the only rank, on the device that training would use, and what the environment says of that.

    Kept until the end: DeepSpeed cannot be started a second time in a process.
    """
    ranks = start_ranks()
    return ranks, {name: os.environ.pop(name) for name in NAMES}  # other tests' commands must not inherit them


@pytest.fixture
def alone(group_of_one, monkeypatch) -> Ranks:
    """The only rank, with its environment."""
    ranks, environment = group_of_one
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return ranks
