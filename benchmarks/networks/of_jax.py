"""The networks in JAX: by hand with `lax.scan`, and in Spyx and jaxpike. All jitted, and waited for.

"jax" is one scan of one plain step, all products in it; "jax: hoisted" takes what no state reaches out of the scan, as one who knows does.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from works import BETA, Row


@jax.custom_jvp
def spike(u: Any) -> Any:
    return (u > 0).astype(u.dtype)


spike.defjvps(lambda g, out, u: g / (1 + (jnp.pi * u) ** 2))


def prepare(who: str, row: Row, numbers: Any) -> Any:
    """`step()`, one training step or one pass, and `hidden()`, the hidden spikes."""
    xs, labels = jnp.asarray(numbers["xs"]), jnp.asarray(numbers["labels"])
    weights = [jnp.asarray(w) for w in numbers["weights"]]
    params, run = NETWORKS[who.removesuffix(": per sample")](row, weights)
    wanted = jax.random.normal(jax.random.key(0), (row.T, row.batch, row.sizes[-1]))

    def loss(params: Any, xs: Any, labels: Any) -> Any:
        out = run(params, xs)[1]
        if row.kind in ("slstm", "relu", "layer"):
            return (out * wanted).sum()
        logits = jax.nn.log_softmax(10 * out.mean(0))
        return -jnp.take_along_axis(logits, labels[:, None], 1).mean()

    if not row.gradient:
        work = jax.jit(lambda params, xs, labels: run(params, xs)[1])
    elif row.kind == "layer":
        work = jax.jit(jax.grad(loss, argnums=1))
    elif who.endswith("per sample"):
        one = lambda params, x, label: loss(params, x[:, None], label[None])
        work = jax.jit(jax.vmap(jax.grad(one), in_axes=(None, 1, 0)))
    else:
        work = jax.jit(jax.grad(loss))
    return lambda: jax.block_until_ready(work(params, xs, labels)), lambda: jax.jit(run)(params, xs)[0]


def reset(mem: Any) -> Any:
    return jax.lax.stop_gradient((mem > 1).astype(mem.dtype))


def lif(mem: Any, current: Any) -> Any:
    mem = BETA * mem + current - reset(mem)
    return mem, spike(mem - 1)


def by_hand(row: Row, weights: Any) -> Any:
    zeros = lambda xs, n: jnp.zeros((xs.shape[1], n))
    if row.kind == "slstm":
        return weights, lambda params, xs: (None, lstm(params, xs, row, inside=True))
    if row.kind == "relu":
        return weights, lambda params, xs: (None, rectified(params, xs, row))
    if row.kind == "layer":
        return weights, lambda params, xs: (None, jax.lax.scan(lif, jnp.zeros(xs.shape[1:]), xs)[1])
    if row.kind == "conv":
        return weights, convolutional

    def run(params: Any, xs: Any) -> Any:
        def step(state: Any, x: Any) -> Any:
            spk, first, second = state
            current = x @ params[0].T
            current = current + spk @ params[1].T if row.kind == "recurrent" else current
            first, spk = lif(first, current)
            second, out = lif(second, spk @ params[-1].T)
            return (spk, first, second), (spk, out)

        m = row.sizes[1]
        return jax.lax.scan(step, (zeros(xs, m), zeros(xs, m), zeros(xs, row.sizes[-1])), xs)[1]

    return weights, run


def hoisted(row: Row, weights: Any) -> Any:
    if row.kind == "slstm":
        return weights, lambda params, xs: (None, lstm(params, xs, row, inside=False))

    def run(params: Any, xs: Any) -> Any:
        def step(state: Any, current: Any) -> Any:
            spk, mem = state
            mem, spk = lif(mem, current + spk @ params[1].T if row.kind == "recurrent" else current)
            return (spk, mem), spk

        rest = jnp.zeros((xs.shape[1], row.sizes[1]))
        hidden = jax.lax.scan(step, (rest, rest), xs @ params[0].T)[1]
        return hidden, jax.lax.scan(lif, jnp.zeros((xs.shape[1], row.sizes[-1])), hidden @ params[-1].T)[1]

    return weights, run


def lstm(params: Any, xs: Any, row: Row, inside: bool) -> Any:
    def step(state: Any, x: Any) -> Any:
        syn, mem = state
        gates = mem @ params[1].T + (x @ params[0].T if inside else x)
        i, f, g, o = jnp.split(gates, 4, -1)
        syn = jax.nn.sigmoid(f) * syn + jax.nn.sigmoid(i) * jnp.tanh(g)
        mem = jax.nn.sigmoid(o) * jnp.tanh(syn)
        return (syn, mem), spike(mem - 1)

    rest = jnp.zeros((xs.shape[1], row.sizes[1]))
    return jax.lax.scan(step, (rest, rest), xs if inside else xs @ params[0].T)[1]


def rectified(params: Any, xs: Any, row: Row) -> Any:
    def step(mem: Any, current: Any) -> Any:
        mem = jax.nn.relu(current + mem @ params[1].T)
        return mem, spike(mem - 1)

    return jax.lax.scan(step, jnp.zeros((xs.shape[1], row.sizes[1])), xs @ params[0].T)[1]


def convolutional(params: Any, xs: Any) -> Any:
    def image(x: Any, w: Any) -> Any:
        out = jax.lax.conv_general_dilated(x, w, (1, 1), "VALID")
        return jax.lax.reduce_window(out, -jnp.inf, jax.lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")

    def step(state: Any, x: Any) -> Any:
        first, one = lif(state[0], image(x, params[0]))
        second, two = lif(state[1], image(one, params[1]))
        third, out = lif(state[2], two.reshape(len(x), -1) @ params[2].T)
        return (first, second, third), (two, out)

    batch = xs.shape[1]
    rest = jnp.zeros((batch, 12, 12, 12)), jnp.zeros((batch, 64, 4, 4)), jnp.zeros((batch, 10))
    return jax.lax.scan(step, rest, xs)[1]


def of_spyx(row: Row, weights: Any) -> Any:
    import spyx
    from flax import nnx

    rngs, arctan = nnx.Rngs(0), spyx.axn.arctan()
    layer = lambda n: spyx.nn.LIF((n,), beta=BETA, activation=arctan, rngs=rngs)
    if row.kind == "layer":
        parts: list[Any] = [layer(row.sizes[0])]
    else:
        first, last = (nnx.Linear(*w.shape[::-1], use_bias=False, rngs=rngs) for w in (weights[0], weights[-1]))
        first.kernel.value, last.kernel.value = weights[0].T, weights[-1].T
        hidden = layer(row.sizes[1])
        if row.kind == "recurrent":
            hidden = spyx.nn.RLIF((row.sizes[1],), beta=BETA, activation=arctan, rngs=rngs)
            hidden.recurrent_w.value = weights[1].T
        parts = [first, hidden, last, layer(row.sizes[-1])]
    split, params = nnx.split(spyx.nn.Sequential(*parts))

    def run(params: Any, xs: Any) -> Any:
        layers = nnx.merge(split, params).layers
        if row.kind == "layer":
            return None, spyx.nn.run(layers[0], xs)[0]
        # the products of each Linear once over all of time: faster than within Spyx's Sequential
        hidden = spyx.nn.run(layers[1], layers[0](xs))[0]
        return hidden, spyx.nn.run(layers[3], layers[2](hidden))[0]

    return params, run


def of_jaxpike(row: Row, weights: Any) -> Any:
    import equinox as eqx
    import jaxpike

    key = jax.random.key(0)
    lif = lambda: jaxpike.LIF(tau=-1 / math.log(BETA), surrogate=jaxpike.ATan())

    def dense(w: Any) -> Any:  # jaxpike weighs a current by 1 - 0.9
        layer = jaxpike.Dense(*w.shape[::-1], key=key, use_bias=False)
        return eqx.tree_at(lambda layer: layer.weight, layer, w / (1 - BETA))

    if row.kind == "recurrent":
        nodes = dict(w_in=dense(weights[0]), hidden=lif(), w_rec=dense(weights[1]), w_out=dense(weights[2]), out=lif())
        edges = [
            ("input", "w_in"), ("w_in", "hidden"), ("hidden", "w_rec"), ("w_rec", "hidden"), ("hidden", "w_out"), ("w_out", "out"),
        ]  # fmt: skip
        whole = jaxpike.Graph(nodes, edges, "out")
        inner = jaxpike.Graph({k: nodes[k] for k in ("w_in", "hidden", "w_rec")}, edges[:4], "hidden")
    else:
        layers = [dense(weights[0]), lif(), dense(weights[1]), lif()]
        whole, inner = jaxpike.Sequential(*layers), jaxpike.Sequential(*layers[:2])
    params, rest = eqx.partition(whole, eqx.is_inexact_array)

    def run(params: Any, xs: Any) -> Any:
        return jaxpike.unroll(inner, xs)[0], jaxpike.unroll(eqx.combine(params, rest), xs)[0]

    return params, run


NETWORKS = {"jax": by_hand, "jax: hoisted": hoisted, "spyx": of_spyx, "jaxpike": of_jaxpike}
