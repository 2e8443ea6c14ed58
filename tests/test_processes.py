"""Two processes have the gradients of one: `tests/processes.py`, started as torchrun starts it."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = Path(__file__).parent / "processes.py"
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
