"""The networks in this library: pure steps under `torch.func.grad`, and faces by `snn.run`.

`prepare(way, row, numbers)`, where way is what stands behind "ours: ":

    (nothing)         `scan` of a chain
    own step          of one plain step, two products and two neurons, as a user writes it
    masked            the same, its states kept where a sample is over
    recorded          the same, the hidden spikes put out as well
    snn.run           faces in an nn.Sequential, and .backward()
    dense             the chain, its products as torch takes them (SNN_FUNCTIONAL_EVENTS=0)
    loop              the chain, kind="loop"
    two threads       the chain, on two cores
    ensemble          vmap(grad) over eight networks; "eight times one": one after the other
    per sample        vmap(grad) over the samples
"""

import os
from typing import Any

import optree
import torch
from of_torch import dense, loss_of
from torch.func import grad, vmap
from works import BETA, Row

import snn_functional as snf
from snn_functional import snn


tree_map: Any = optree.tree_map
LEAK = snf.LeakyParams(BETA)


def prepare(way: str, row: Row, numbers: Any) -> Any:
    """`step()`, one training step or one pass, and `hidden()`, the hidden spikes."""
    weights = [torch.tensor(w) for w in numbers["weights"]]
    xs, labels = torch.from_numpy(numbers["xs"]), torch.from_numpy(numbers["labels"])
    if row.kind == "conv":
        xs = xs[0].clone().expand(xs.shape)
    if row.kind == "layer":
        return layer(xs), lambda: None
    if way == "snn.run":
        return module(row, weights, xs, labels)
    run, recorded = network(way, row)

    def loss(weights: Any, xs: Any, labels: Any) -> Any:
        return loss_of(row, run(weights, xs), labels)

    if not row.gradient:
        step = torch.no_grad()(lambda: run(weights, xs))
    elif way in ("ensemble", "eight times one"):
        members = [[w * (1 + 0.01 * i) for w in weights] for i in range(8)]
        stacked = tree_map(lambda *leaves: torch.stack(leaves), *members)
        if way == "ensemble":
            step = lambda: vmap(grad(loss), in_dims=(0, None, None))(stacked, xs, labels)
        else:
            step = lambda: [grad(loss)(member, xs, labels) for member in members]
    elif way == "per sample":
        one = lambda weights, x, label: loss(weights, x[:, None], label[None])
        step = lambda: vmap(grad(one), in_dims=(None, 1, 0))(weights, xs, labels)
    else:
        step = lambda: grad(loss)(weights, xs, labels)

    def work() -> Any:
        os.environ["SNN_FUNCTIONAL_EVENTS"] = "0" if way == "dense" else "1"
        return step()

    return work, lambda: recorded(weights, xs)


def network(way: str, row: Row) -> Any:
    """Functions of the weights and the input: the last spikes, and the hidden ones."""
    if way in OWN:
        return own(way, row)
    layers: dict[str, Any] = {
        "recurrent": (snf.linear, snf.rleaky, snf.linear, snf.leaky),
        "feedforward": (snf.linear, snf.leaky, snf.linear, snf.leaky),
        "slstm": (snf.slstm,),
        "relu": (snf.leaky_parallel,),
        "conv": (
            snf.conv2d, snf.max_pool2d(2), snf.leaky, snf.conv2d, snf.max_pool2d(2), snf.leaky, snf.flatten, snf.linear, snf.leaky,
        ),
    }  # fmt: skip
    net, kind = snf.chain(*layers[row.kind]), "loop" if way == "loop" else "auto"

    def params(w: Any) -> Any:
        if row.kind == "recurrent":
            return snf.Linear(w[0]), snf.RLeakyParams(BETA, V=snf.Linear(w[1])), snf.Linear(w[2]), LEAK
        if row.kind == "feedforward":
            return snf.Linear(w[0]), LEAK, snf.Linear(w[1]), LEAK
        if row.kind == "slstm":
            return (snf.SLSTMParams(snf.Linear(w[0]), snf.Linear(w[1])),)
        if row.kind == "relu":
            return (snf.LeakyParallelParams(snf.Linear(w[0]), snf.Linear(w[1])),)
        image = lambda w: snf.Conv2d(w, padding=0)
        return image(w[0]), (), LEAK, image(w[1]), (), LEAK, (), snf.Linear(w[2]), LEAK

    def run(weights: Any, xs: Any) -> Any:
        p = params(weights)
        return snf.scan(net.step, p, net.init(p, xs[0]), xs, kind=kind)[0]

    def recorded(weights: Any, xs: Any) -> Any:
        p, every = params(weights), snf.every_layer(net)
        outs = snf.scan(every.step, p, every.init(p, xs[0]), xs)[0]
        return {"conv": lambda: outs[5], "slstm": lambda: outs[0], "relu": lambda: outs[0]}.get(
            row.kind, lambda: outs[1]
        )()

    return run, recorded


def layer(xs: Any) -> Any:
    """One LIF layer, and the gradient of its currents."""
    rest = snf.leaky_init(LEAK, xs[0])
    loss = lambda xs: loss_of(Row("layer", (), 0, 0, 0, (), {}), snf.scan(snf.leaky_step, LEAK, rest, xs)[0], None)
    return lambda: grad(loss)(xs)


OWN = ("own step", "masked", "recorded")


def own(way: str, row: Row) -> Any:
    def step(w: Any, s: Any, x: Any) -> Any:
        current = x @ w[0].T + s[0] @ w[1].T if row.kind == "recurrent" else x @ w[0].T
        spk, first = snf.leaky_step(LEAK, s[1], current)
        out, second = snf.leaky_step(LEAK, s[2], spk @ w[-1].T)
        return out, (spk, first, second)

    def masked(w: Any, s: Any, x: Any) -> Any:
        x, valid = x
        out, new = step(w, s, x)
        return out, tree_map(lambda new, old: torch.where(valid, new, old), new, s)

    def recorded(w: Any, s: Any, x: Any) -> Any:
        out, new = step(w, s, x)
        return (out, new[0]), new

    valid = torch.arange(row.T)[:, None, None] < torch.randint(row.T // 2, row.T, (row.batch, 1))

    def run(f: Any, w: Any, xs: Any) -> Any:
        rest = lambda n: torch.zeros(row.batch, n)
        state = rest(row.sizes[1]), snf.LeakyState(rest(row.sizes[1])), snf.LeakyState(rest(row.sizes[-1]))
        return snf.scan(f, w, state, (xs, valid) if f is masked else xs)[0]

    spikes = lambda w, xs: run(recorded, w, xs)[1]
    if way == "recorded":
        return (lambda w, xs: run(recorded, w, xs)[0]), spikes
    return (lambda w, xs: run(masked if way == "masked" else step, w, xs)), spikes


def module(row: Row, weights: Any, xs: Any, labels: Any) -> Any:
    from torch import nn

    lif = lambda: snn.Leaky(beta=BETA, init_hidden=True)
    if row.kind == "conv":
        from of_torch import conv

        net = nn.Sequential(
            conv(weights[0]), nn.MaxPool2d(2), lif(), conv(weights[1]), nn.MaxPool2d(2), lif(), nn.Flatten(), dense(weights[2]), lif(),
        )  # fmt: skip
    else:
        net = nn.Sequential(dense(weights[0]), lif(), dense(weights[1]), lif())
    matrices = [p for p in net.parameters() if p.dim() > 1]

    def step() -> Any:
        snn.utils.reset(net)
        if not row.gradient:
            with torch.no_grad():
                return snn.run(net, xs)
        return torch.autograd.grad(loss_of(row, snn.run(net, xs), labels), matrices)

    return step, lambda: None
