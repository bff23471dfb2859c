"""Freed memory of the host is used again."""

import subprocess
import sys

PROGRAM = """
import resource, sys
from launch.training.host_memory import keep_freed_memory
import torch

def new_pages(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        torch.ones(16_000_000)  # 64 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(new_pages(10))
keep_freed_memory()
new_pages(20)  # until the free pieces are of sizes that are asked for
print(new_pages(10))
"""


def test_freed_tensors_cost_no_new_pages() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after < before / 5
