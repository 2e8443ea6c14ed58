"""One LIF layer, forward and backward, by everybody: `RIVALS[name](T, batch, neurons) -> run`, and `run()` does it once.

Everyone gets currents [T, batch, neurons] and a dense cotangent of the spikes, as a layer inside a network would, and works out
the spikes and the gradient of the currents. Fair to all: loops go over `unbind`, JAX is jitted and waited for, inputs lie in
the layout that the library asks for, and state is made anew at every run. The dynamics differ a little (where the reset
stands, a factor 1 - beta); the arithmetic is alike.

    python rivals.py NAME THREADS DEVICE   a worker: reads `T batch neurons` a line, runs once to wake up, then for 50 ms, and
                                           answers with the median of these runs in milliseconds
"""

import contextlib
import os
import statistics
import sys
import time
from collections.abc import Callable


def fused(*size: int, kind: str = "fused") -> Callable[[], object]:
    import torch

    import snn_functional as snf

    params = snf.LeakyParams(beta=0.9)
    return _torch(
        lambda x: snf.scan(snf.leaky_step, params, snf.leaky_init(params, x[0]), x, kind=kind)[0], torch, size
    )


def loop(*size: int) -> Callable[[], object]:
    return fused(*size, kind="loop")


def by_hand(*size: int) -> Callable[[], object]:
    """What a user writes without a library: a loop over `unbind` and a surrogate of two lines."""
    import torch

    def spike(u):
        smooth = torch.atan(torch.pi * u) / torch.pi
        return (u > 0).to(u.dtype) + smooth - smooth.detach()

    def run(x):
        mem, spks = torch.zeros_like(x[0]), []
        for current in x.unbind(0):
            mem = 0.9 * mem + current - (mem > 1).to(x.dtype)
            spks.append(spike(mem - 1))
        return torch.stack(spks)

    return _torch(run, torch, size)


def snntorch(*size: int) -> Callable[[], object]:
    import snntorch
    import torch

    layer = snntorch.Leaky(beta=0.9)

    def run(x):
        mem, spks = torch.zeros_like(x[0]), []
        for current in x.unbind(0):
            spk, mem = layer(current, mem)
            spks.append(spk)
        return torch.stack(spks)

    return _torch(run, torch, size)


def norse(*size: int) -> Callable[[], object]:
    import torch
    from norse.torch import LIFBoxCell

    cell = LIFBoxCell()

    def run(x):
        state, spks = None, []
        for current in x.unbind(0):
            spk, state = cell(current, state)
            spks.append(spk)
        return torch.stack(spks)

    return _torch(run, torch, size)


def spikingjelly(*size: int) -> Callable[[], object]:
    import torch
    from spikingjelly.activation_based import functional, neuron, surrogate

    layer = neuron.LIFNode(tau=10.0, decay_input=False, v_reset=None, detach_reset=True, step_mode="m",
                           surrogate_function=surrogate.ATan())  # fmt: skip

    def run(x):
        functional.reset_net(layer)
        return layer(x)

    return _torch(run, torch, size)


def sinabs(*size: int) -> Callable[[], object]:
    import torch
    from sinabs.layers import LIF

    layer = LIF(tau_mem=10.0, norm_input=False)

    def run(x):
        layer.reset_states()
        return layer(x)

    T, batch, neurons = size
    return _torch(run, torch, (batch, T, neurons))


def jax(*size: int) -> Callable[[], object]:
    """`lax.scan` of the step that `by_hand` loops over."""
    import jax
    import jax.numpy as jnp

    @jax.custom_jvp
    def spike(u):
        return (u > 0).astype(u.dtype)

    spike.defjvps(lambda g, out, u: g / (1 + (jnp.pi * u) ** 2))

    def step(mem, current):
        mem = 0.9 * mem + current - jax.lax.stop_gradient((mem > 1).astype(mem.dtype))
        return mem, spike(mem - 1)

    return _jax(lambda x: jax.lax.scan(step, jnp.zeros_like(x[0]), x)[1], size)


def spyx(*size: int) -> Callable[[], object]:
    import spyx
    from flax import nnx

    layer = spyx.nn.LIF((size[2],), beta=0.9, rngs=nnx.Rngs(0))
    return _jax(lambda x: spyx.nn.run(layer, x)[0], size)


def jaxpike(*size: int) -> Callable[[], object]:
    import jaxpike

    layer = jaxpike.LIF(tau=10.0)
    return _jax(lambda x: jaxpike.unroll(layer, x)[0], size)


def copy(*size: int) -> Callable[[], object]:
    """The bytes alone: currents read and spikes written; currents and cotangent read and a gradient written."""
    import torch

    x, w, out = torch.randn(size), torch.randn(size), torch.empty(size)

    def run():
        out.copy_(x)
        torch.add(x, w, out=out)

    return run


def _torch(layer, torch, size) -> Callable[[], object]:
    x, w = (torch.randn(size) / 2).requires_grad_(), torch.randn(size)

    def run():
        spks = layer(x)
        return spks, torch.autograd.grad(spks, x, w)

    return run


def _jax(layer, size) -> Callable[[], object]:
    import jax

    def both_ways(x, w):
        spks, pull = jax.vjp(layer, x)
        return spks, pull(w)[0]

    x, w = jax.random.normal(jax.random.key(0), size) / 2, jax.random.normal(jax.random.key(1), size)
    jitted = jax.jit(both_ways)
    return lambda: jax.block_until_ready(jitted(x, w))


HOMES = {  # the virtual environment that each lives in; None: where this project is installed
    "fused": None, "loop": None, "by_hand": None, "copy": None,
    "snntorch": "torch", "norse": "torch", "spikingjelly": "torch", "sinabs": "torch",
    "jax": "jax", "spyx": "jax", "jaxpike": "jax",
}  # fmt: skip
RIVALS = {name: globals()[name] for name in HOMES}


def work(name: str, threads: int, device: str) -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    there, finish = contextlib.nullcontext(), lambda: None
    if HOMES[name] == "jax":
        os.environ |= {"JAX_PLATFORMS": device, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    else:
        import torch

        torch.set_num_threads(threads)
        there = torch.device(device)
        finish = torch.cuda.synchronize if device == "cuda" else finish
    size, run = None, None
    print("ready", flush=True)
    for line in sys.stdin:
        if (asked := tuple(map(int, line.split()))) != size:
            with there:
                size, run = asked, RIVALS[name](*asked)
        run()
        finish()
        taken: list[float] = []
        while sum(taken) < 0.05:
            start = time.perf_counter()
            run()
            finish()
            taken.append(time.perf_counter() - start)
        print(statistics.median(taken) * 1e3, flush=True)


if __name__ == "__main__":
    # This folder's files are named after what they measure; a library of the same name comes first.
    sys.path.append(sys.path.pop(0))
    work(sys.argv[1], int(sys.argv[2]), sys.argv[3])
