"""Two processes have the gradients of one: scripts, started as torchrun starts them."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import needs_torch


@pytest.mark.slow
@pytest.mark.parametrize(
    "script", ["processes.py", pytest.param("citizens.py", marks=needs_torch("2.6", "fully_shard"))]
)
def test_two_processes_have_the_gradients_of_one(script):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = Path(__file__).parent / script
    world = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
    }
    path = [str(script.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    world["PYTHONPATH"] = os.pathsep.join(path)
    start = lambda rank: subprocess.Popen(
        [sys.executable, str(script)],
        env=world | {"RANK": rank},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    running = [start("0"), start("1")]
    try:
        for rank, process in enumerate(running):
            said = process.communicate(timeout=180)[0]
            assert process.returncode == 0 and f"process {rank} of 2: the same gradients" in said, said
    finally:
        for process in running:
            process.kill()
