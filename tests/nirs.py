"""Graphs of NIR for the tests, made by its own library, and what runs them."""

import dataclasses

import optree
import pytest

import snn_functional as snf


np = pytest.importorskip("numpy")
nir = pytest.importorskip("nir", reason="pip install nir")


def node(kind, *shape, **numbers):
    """A neuron with plain numbers, as the library has it."""
    usual = {
        "r": 2.0,
        "v_leak": 0.0,
        "v_threshold": 1.0,
        "v_reset": 0.0,
        "tau": 4e-4,
        "tau_mem": 4e-4,
        "tau_syn": 2e-4,
        "w_in": 1.0,
    }
    names = [f.name for f in dataclasses.fields(getattr(nir, kind)) if f.name in usual]
    return getattr(nir, kind)(**{key: np.full(shape, numbers.get(key, usual[key])) for key in names})


def between(*nodes, shape, outputs=None):
    """A row of nodes."""
    names = ["input", *(f"n{i}" for i in range(len(nodes))), "output"]
    inside = dict(zip(names, [nir.Input(np.array(shape)), *nodes, nir.Output(np.array(outputs or shape))]))
    return nir.NIRGraph(inside, list(zip(names, names[1:])), type_check=False)


def graph(edges, shape=(3,), **nodes):
    """A graph of nodes by name, with an input and an output."""
    ends = {"input": nir.Input(np.array(shape)), "output": nir.Output(np.array(shape))}
    pairs = [tuple(edge.split(">")) for edge in edges.split()]
    return nir.NIRGraph(ends | nodes, pairs, type_check=False)


def run(source, xs, kind="loop", **how):
    neuron, params = snf.nir.read(source, **how)
    return snf.scan(neuron.step, params, neuron.init(params, optree.tree_map(lambda x: x[0], xs)), xs, kind=kind)[0]


def affine(rows, columns, seed=0):
    draw = np.random.default_rng(seed)
    return nir.Affine(draw.integers(-8, 9, (rows, columns)) / 8, draw.integers(-4, 5, rows) / 8)


LIF = node("LIF", 3)
W = affine(3, 3)

EQUATIONS = {  # the step of each, Euler's, from its differential equation; the state is (v, i)
    "I": lambda p, v, i, x: (v + p.r * x, i),
    "IF": lambda p, v, i, x: (v + p.r * x, i),
    "LI": lambda p, v, i, x: (v + 1e-4 / p.tau * (p.v_leak - v + p.r * x), i),
    "LIF": lambda p, v, i, x: (v + 1e-4 / p.tau * (p.v_leak - v + p.r * x), i),
}


def cuba(p, v, i, x):
    i = i + 1e-4 / p.tau_syn * (p.w_in * x - i)
    return v + 1e-4 / p.tau_mem * (p.v_leak - v + p.r * i), i


EQUATIONS |= {"CubaLI": cuba, "CubaLIF": cuba}
