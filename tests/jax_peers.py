"""Spyx and jaxpike, run by their own Python: `python jax_peers.py drawn.npz answers.npz`. No torch, no pytest.

Each case has a name, inputs `xs` [T, batch, neurons], `numbers`, and weights of its outputs [2, T, batch, neurons]. The answers are
spikes, membranes, and the gradients of their weighted sum after xs and the numbers. Nothing is compiled as a whole: XLA would round
a product and a sum once.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxpike import neurons as jaxpike, surrogate
from spyx import axn, nn as spyx


jax.config.update("jax_enable_x64", True)


def spyx_step(cls, xs, number, **names):
    """A Spyx neuron whose learned numbers are these."""
    layer = cls(xs.shape[2:], **dict.fromkeys(names, 0.5), threshold=number["threshold"], rngs=nnx.Rngs(0))
    layer.spike = axn.superspike(25)
    for name in names:
        getattr(layer, name)[...] = number[name]
    return layer


def spyx_lif(number, xs):
    layer, v = spyx_step(spyx.LIF, xs, number, beta=1), jnp.zeros_like(xs[0])
    for x in xs:
        s, v = layer(x, v)
        yield s, v


def spyx_if(number, xs):
    layer, v = spyx.IF(xs.shape[2:], number["threshold"], axn.superspike(25)), jnp.zeros_like(xs[0])
    for x in xs:
        s, v = layer(x, v)
        yield s, v


def spyx_cuba(number, xs):
    layer, vi = spyx_step(spyx.CuBaLIF, xs, number, alpha=1, beta=1), jnp.zeros((*xs.shape[1:-1], 2 * xs.shape[-1]))
    for x in xs:
        s, vi = layer(x, vi.astype(xs.dtype))
        yield s, jnp.split(vi, 2, -1)[0]


def jaxpike_lif(number, xs, reset):
    layer = jaxpike.LIF(20.0, threshold=number["threshold"], reset=reset, surrogate=surrogate.FastSigmoid(25.0))
    object.__setattr__(layer, "log_tau", jnp.log(number["tau"]))
    state = layer.init_state(xs.shape[1:])
    for x in xs:
        state, s = layer(state, x)
        yield s, state.v


RUN = {
    "spyx LIF": spyx_lif,
    "spyx IF": spyx_if,
    "spyx CuBaLIF": spyx_cuba,
    "jaxpike subtract": lambda number, xs: jaxpike_lif(number, xs, "subtract"),
    "jaxpike zero": lambda number, xs: jaxpike_lif(number, xs, "zero"),
}


def answer(case):
    """Of one drawn case, given as arrays."""
    run = RUN[str(case.pop("name"))]
    xs, weights, fixed = jnp.asarray(case.pop("xs")), case.pop("weights"), {"threshold": float(case.pop("threshold"))}
    numbers = {name: jnp.asarray(x) for name, x in case.items()}

    def weighted(numbers, xs):
        outputs = [jnp.stack(column) for column in zip(*run(numbers | fixed, xs))]
        return sum((w * x).sum() for w, x in zip(weights, outputs)), outputs

    (slopes, slope), (spks, mems) = jax.grad(weighted, (0, 1), has_aux=True)(numbers, xs)
    return {"spks": spks, "mems": mems, "slope xs": slope} | {f"slope {name}": x for name, x in slopes.items()}


if __name__ == "__main__":
    drawn, cases = np.load(sys.argv[1]), {}
    for key in drawn.files:
        which, _, name = key.partition("/")
        cases.setdefault(which, {})[name] = drawn[key]
    answers = {f"{which}/{name}": x for which, case in cases.items() for name, x in answer(case).items()}
    np.savez(sys.argv[2], **{key: np.asarray(x) for key, x in answers.items()})
