"""python worker.py WHO THREADS IMAGES: one library in a process of its own.

Reads the name of a row a line. The first time it builds that row and runs it; then it runs it once to wake up, and for 50 ms or once
more, and answers with a line of JSON: {"ms": the median of CPU time, "wall": of time, "hidden": the share of hidden spikes that are 1},
or {"error": ...}.
"""

import json
import os
import statistics
import sys
import time
from typing import Any


def versions(names: tuple[str, ...]) -> str:
    from importlib.metadata import version

    return ", ".join(f"{name} {version(name)}" for name in names)


OF = {
    "products": ("torch",),
    "plain loop": ("torch",),
    "torch.nn.RNN": ("torch",),
    "spyx": ("spyx", "jax"),
    "jaxpike": ("jaxpike", "jax"),
}


def work(who: str, threads: int, images: str) -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
    library, _, way = who.partition(": ")
    if library in ("jax", "spyx", "jaxpike"):
        import of_jax as rooms
    else:
        import torch

        torch.set_num_threads(threads)
        if library == "ours":
            import ours as rooms
        else:
            import of_torch as rooms
    import works

    named = OF.get(library, ("torch",) if library == "ours" else (library, "torch") if library != "jax" else ("jax",))
    print(versions(named), flush=True)
    made: dict[str, Any] = {}
    for name in map(str.strip, sys.stdin):
        try:
            if name not in made:
                made.clear()
                numbers = works.drawn(name, images)
                step, hidden = rooms.prepare(way if library == "ours" else who, works.ROWS[name], numbers)
                spikes = hidden()
                made[name] = step, None if spikes is None else float(spikes.mean())
                step()
            step, share = made[name]
            step()
            cpu, wall = [], []
            while sum(wall) < 0.05:
                began, at = time.process_time(), time.perf_counter()
                step()
                cpu.append(1e3 * (time.process_time() - began))
                wall.append(time.perf_counter() - at)
            answer = dict(ms=statistics.median(cpu), wall=1e3 * statistics.median(wall), hidden=share)
        except Exception as error:
            answer = dict(error=f"{type(error).__name__}: {error}".splitlines()[0][:160])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    work(sys.argv[1], int(sys.argv[2]), sys.argv[3])
