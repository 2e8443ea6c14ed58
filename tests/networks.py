"""Random networks, each one plain step: what a user may write. Weights and inputs lie on a dyadic grid, where every order of a sum gives
the same bits."""

import dataclasses
import random

import torch
from hypothesis import strategies as st

import snn_functional as snf


def dyadic(*shape, generator, scale=1.0):
    return torch.randint(-16, 17, shape, generator=generator).double() / 16 * scale


@dataclasses.dataclass(frozen=True)
class Net:
    """A step, `params` a dictionary, `state` a dictionary, `inputs` a dictionary with "x" and "valid"."""

    layers: tuple[str, ...]
    batch: int
    T: int
    seed: int

    def world(self):
        g = torch.Generator().manual_seed(self.seed)
        params, state, width = {"unused": dyadic(2, generator=g)}, {}, 4
        inputs = {
            "x": dyadic(self.T, self.batch, width, generator=g, scale=2),
            "valid": torch.rand(self.T, self.batch, 1, generator=g) > 0.4,
        }
        rest = lambda n: torch.zeros(self.batch, n, dtype=torch.float64)
        for i, kind in enumerate(self.layers):
            out = WIDTHS[(self.seed + i) % 3]
            if kind in ("dense", "biased", "both_inputs"):
                params[f"w{i}"] = dyadic(width + (4 if kind == "both_inputs" else 0), out, generator=g)
                params[f"b{i}"] = dyadic(out, generator=g, scale=0.5)
                width = out
            elif kind in ("leaky", "masked", "delayed_reset"):
                params[f"beta{i}"] = torch.full((width,), 0.875, dtype=torch.float64)
                state[f"mem{i}"] = rest(width)
            elif kind == "synaptic":
                params[f"beta{i}"] = torch.tensor(0.5, dtype=torch.float64)
                state[f"syn{i}"], state[f"mem{i}"] = rest(width), rest(width)
            elif kind in ("recurrent", "two_that_feed_back"):
                params[f"v{i}"] = dyadic(width, width, generator=g, scale=0.25)
                state[f"mem{i}"], state[f"spk{i}"] = rest(width), rest(width)
            elif kind == "delay":
                state[f"last{i}"] = dyadic(self.batch, width, generator=g)
            elif kind == "idle":
                state[f"scale{i}"] = torch.tensor(1.5, dtype=torch.float64)
        return self, params, state, inputs

    def __call__(self, params, state, inputs):
        x, new, seen, fire = inputs["x"], dict(state), [], SPIKE
        first = x
        for i, kind in enumerate(self.layers):
            p = lambda name, i=i: params[f"{name}{i}"]
            s = lambda name, i=i: state[f"{name}{i}"]
            if kind == "dense":
                x = x @ p("w")
            elif kind == "biased":
                x = torch.nn.functional.linear(x, p("w").T, p("b"))
            elif kind == "both_inputs":
                x = torch.cat([x, first], -1) @ p("w")
            elif kind == "rectified":
                x = torch.nn.functional.leaky_relu(x, 0.25) if x.shape[-1] > 3 else x * 0.5
            elif kind == "centred":
                x = x - x.mean(-1, keepdim=True).round()
            elif kind == "drawn":
                x = x * (torch.rand_like(x) > 0.3)
            elif kind == "dropout":
                x = torch.nn.functional.dropout(x, 0.5, training=True)
            elif kind == "detached":
                with torch.no_grad():
                    level = x * 0.25
                x = x + level
            elif kind == "of_a_function":
                x = Rounded.apply(x, 2.0)
            elif kind == "delay":
                x, new[f"last{i}"] = s("last") + x, x
            elif kind == "idle":
                x = x * s("scale")
            elif kind in ("leaky", "masked", "delayed_reset"):
                mem = p("beta") * s("mem") + x
                reset = ((mem if kind != "delayed_reset" else s("mem")) > 1).to(mem.dtype)
                kept = mem - reset
                new[f"mem{i}"] = torch.where(inputs["valid"], kept, s("mem")) if kind == "masked" else kept
                x = fire(mem - 1)
                seen.append(x)
            elif kind == "synaptic":
                syn = p("beta") * s("syn") + x
                mem = 0.5 * s("mem") + syn
                new[f"syn{i}"], new[f"mem{i}"] = syn, mem - (mem > 1).to(mem.dtype)
                x = fire(mem - 1)
            elif kind == "recurrent":
                mem = 0.5 * s("mem") + x + s("spk") @ p("v")
                x = fire(mem - 1)
                new[f"mem{i}"], new[f"spk{i}"] = mem - x, x
                seen.append(mem)
            elif kind == "two_that_feed_back":
                mem = 0.5 * s("mem") + x
                spk = fire(mem - s("spk") @ p("v"))
                new[f"mem{i}"], new[f"spk{i}"] = mem - spk, fire(spk - 0.5)
                x = spk
        return {"out": x, "seen": seen}, new


class Rounded(torch.autograd.Function):
    """Whole numbers, with a gradient that is not theirs, as torch.func wants it written."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, gain):
        return torch.round(x * gain)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, ctx.gain = inputs
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)

    @staticmethod
    def backward(ctx, cotangent):
        return cotangent * ctx.gain / (1 + ctx.saved_tensors[0] ** 2), None

    @staticmethod
    def jvp(ctx, tangent, _):
        return tangent * ctx.gain / (1 + ctx.saved_tensors[0] ** 2)


BENT = (
    torch.tanh, torch.relu, torch.sigmoid, torch.square, torch.abs, lambda x: x.clamp(-0.5, 0.5), lambda x: SPIKE(x - 0.2),
    lambda x: torch.exp(-x.abs()), lambda x: torch.sqrt(1 + x * x),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class FedBack:
    """Two states of one width that reach each other through a product, params of any shape that broadcasts, functions with and
    without a bend: for derivatives of derivatives."""

    functions: tuple  # four
    twice: bool  # two products, one after the other
    short: bool

    def __call__(self, params, state, x):
        (w, a, b), (m, q), (f0, f1, f2, f3) = params, state, self.functions
        h = f0(m @ w) * a + f1(b) * x
        m = 0.5 * m + 0.3 * f2(h) + 0.1 * b * q
        q = 0.5 * f3(m * a) + 0.2 * q
        if self.twice:
            q = q + 0.1 * q @ w
        return h if self.short else q + a * b, (m.clamp(-3, 3), q.clamp(-3, 3))


def fed_back(seed):
    """Step, params, state, inputs; the same for the same seed."""
    rng, g = random.Random(seed), torch.Generator().manual_seed(seed)
    step = FedBack(tuple(rng.choices(BENT, k=4)), rng.random() < 0.5, rng.random() < 0.25)
    n, draw = rng.choice([2, 3]), lambda *shape: torch.randn(shape, generator=g).double()
    shape = lambda: rng.choice([(), (n,), (1,)])
    return step, (draw(n, n), draw(*shape()), draw(*shape())), (draw(2, n), draw(2, n)), draw(3, 2, n)


WIDTHS = (3, 4, 6)
SPIKE = snf.surrogate.ATan()
KINDS = (
    "dense", "biased", "both_inputs", "rectified", "centred", "drawn", "dropout", "detached", "of_a_function", "delay", "idle", "leaky",
    "masked", "delayed_reset", "synaptic", "recurrent", "two_that_feed_back",
)  # fmt: skip


def nets(kinds=KINDS, most=6):
    layers = st.lists(st.sampled_from(kinds), min_size=2, max_size=6).map(tuple)
    return st.builds(Net, layers, st.integers(1, 3), st.integers(1, most), st.integers(0, 1000))


DRAWS = ("drawn", "dropout")
SMOOTH = tuple(kind for kind in KINDS if kind not in DRAWS)
