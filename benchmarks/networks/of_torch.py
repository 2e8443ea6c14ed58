"""The networks in PyTorch: a plain loop, snnTorch, Norse, SpikingJelly, sinabs, torch.nn.RNN, and the dense products alone.

Each library as its documentation writes it: `NETWORKS[name](row, weights)` gives the parameters and `run(xs, record)`, which returns the
hidden spikes (None where they would have to be collected, and `record` is false) and the output's.
"""

import functools
import math
from typing import Any

import torch
from torch import nn
from torch.nn.functional import conv2d, cross_entropy, linear, max_pool2d
from works import BETA, Row


TAU = -1 / math.log(BETA)


def prepare(who: str, row: Row, numbers: Any) -> Any:
    """`step()`, one training step or one pass, and `hidden()`, the hidden spikes."""
    weights = [torch.tensor(w) for w in numbers["weights"]]
    xs, labels = torch.from_numpy(numbers["xs"]), torch.from_numpy(numbers["labels"])
    if row.kind == "conv":
        xs = xs[0].clone().expand(xs.shape)
    if who == "sinabs":  # which wants the batch in front
        xs = xs.transpose(0, 1).contiguous()
        xs = xs.flatten(0, 1) if row.kind == "conv" else xs
    if who == "products":
        return products(row, weights, xs), lambda: None
    params, run = NETWORKS[who](row, weights)
    params = list(params)

    def step() -> Any:
        if not row.gradient:
            with torch.no_grad():
                return run(xs, False)[1]
        return torch.autograd.grad(loss_of(row, run(xs, False)[1], labels), params)

    return step, lambda: run(xs, True)[0]


def loss_of(row: Row, out: Any, labels: Any) -> Any:
    if row.kind in ("slstm", "relu", "layer"):
        return (out * cotangent(*out.shape)).sum()
    return cross_entropy(10 * out.mean(0), labels)


@functools.lru_cache(1)
def cotangent(*shape: int) -> Any:
    """What the rest of a network would want of each spike."""
    return torch.randn(shape)


def spike(u: Any) -> Any:
    smooth = torch.atan(torch.pi * u) / torch.pi
    return (u > 0).to(u.dtype) + smooth - smooth.detach()


def plain_loop(row: Row, weights: Any) -> Any:
    """What a user writes without a library, who knows to take the input's products out of the loop."""
    params = [w.requires_grad_() for w in weights]

    def layer(currents: Any, feedback: Any = None) -> Any:
        mem = spk = torch.zeros_like(currents[0])
        spks = []
        for current in currents.unbind(0):
            back = current if feedback is None else current + linear(spk, feedback)
            mem = BETA * mem + back - (mem > 1).to(mem.dtype)
            spk = spike(mem - 1)
            spks.append(spk)
        return torch.stack(spks)

    def run(xs: Any, record: bool) -> Any:
        hidden = layer(linear(xs, params[0]), params[1] if row.kind == "recurrent" else None)
        return hidden, layer(linear(hidden, params[-1]))

    return params, run


def filled(module: Any, weight: Any) -> Any:
    """The module with this weight."""
    with torch.no_grad():
        module.weight.copy_(weight)
    return module


def dense(weight: Any, scale: float = 1.0) -> nn.Linear:
    return filled(nn.Linear(*weight.shape[::-1], bias=False), weight * scale)


def conv(weight: Any, kind: Any = nn.Conv2d, **more: Any) -> Any:
    return filled(kind(weight.shape[1], weight.shape[0], weight.shape[-1], bias=False, **more), weight)


def of_snntorch(row: Row, weights: Any) -> Any:
    import snntorch as snn
    from snntorch import utils

    if row.kind in ("slstm", "relu"):
        return snntorch_layers(row, weights)
    lif = lambda **more: snn.Leaky(beta=BETA, init_hidden=True, **more)
    if row.kind == "conv":
        net = nn.Sequential(
            conv(weights[0]), nn.MaxPool2d(2), lif(), conv(weights[1]), nn.MaxPool2d(2), lif(), nn.Flatten(), dense(weights[2]), lif(),
        )  # fmt: skip
    elif row.kind == "recurrent":
        recurrent = snn.RLeaky(beta=BETA, linear_features=row.sizes[1], init_hidden=True)
        recurrent.recurrent = dense(weights[1])
        net = nn.Sequential(dense(weights[0]), recurrent, dense(weights[2]), lif())
    else:
        net = nn.Sequential(dense(weights[0]), lif(), dense(weights[1]), lif())

    def run(xs: Any, record: bool) -> Any:
        utils.reset(net)
        kept: list[Any] = []
        where = net[5] if row.kind == "conv" else net[1]
        hook = where.register_forward_hook(lambda module, given, out: kept.append(out.detach())) if record else None
        out = torch.stack([net(x) for x in xs.unbind(0)])
        if hook is not None:
            hook.remove()
        return torch.stack(kept) if record else None, out

    return (p for p in net.parameters() if p.dim() > 1), run


def snntorch_layers(row: Row, weights: Any) -> Any:
    import snntorch as snn

    n, m = row.sizes
    if row.kind == "relu":
        layer = snn.LeakyParallel(n, m, weight_hh_enable=True, learn_beta=True, bias=False)
        with torch.no_grad():
            layer.rnn.weight_ih_l0.copy_(weights[0]), layer.rnn.weight_hh_l0.copy_(weights[1])
        return (layer.rnn.weight_ih_l0, layer.rnn.weight_hh_l0), lambda xs, record: (None, layer(xs))
    layer = snn.SLSTM(n, m, bias=False)
    with torch.no_grad():
        layer.lstm_cell.weight_ih.copy_(weights[0]), layer.lstm_cell.weight_hh.copy_(weights[1])

    def run(xs: Any, record: bool) -> Any:
        # SLSTM's own forward makes its state anew at every step unless it has the input's shape, so its cell is called here
        syn = mem = torch.zeros(row.batch, m)
        spks = []
        for x in xs.unbind(0):
            mem, syn = layer.lstm_cell(x, (mem, syn))
            spks.append(layer.spike_grad(mem - layer.threshold))
        return None, torch.stack(spks)

    return layer.lstm_cell.parameters(), run


def of_norse(row: Row, weights: Any) -> Any:
    import norse.torch as norse
    from norse.torch.functional.reset import reset_subtract

    box = lambda: norse.LIFBoxCell(norse.LIFBoxParameters(reset_method=reset_subtract))
    scale = 10.0  # Norse weighs a current by dt / tau = 1 - 0.9
    if row.kind == "conv":
        net = norse.SequentialState(
            conv(10 * weights[0]), nn.MaxPool2d(2), box(), conv(10 * weights[1]), nn.MaxPool2d(2), box(), nn.Flatten(),
            dense(weights[2], 10), box(),
        )  # fmt: skip
    elif row.kind == "recurrent":
        # tau_syn of one step: the synaptic current is this step's; the reset is to 0, Norse's only one here
        p = norse.LIFParameters(tau_syn_inv=torch.tensor(1000.0))
        w, v = nn.Parameter(scale * weights[0]), nn.Parameter(scale * weights[1])
        cell = norse.LIFRecurrentCell(
            *row.sizes[:2], p=p, input_weights=w, recurrent_weights=v, autapses=True, dt=0.001
        )
        net = norse.SequentialState(cell, dense(weights[2], scale), box())
    else:
        net = norse.SequentialState(dense(weights[0], scale), box(), dense(weights[1], scale), box())
    where = {"conv": 5, "recurrent": 0, "feedforward": 1}[row.kind]

    def run(xs: Any, record: bool) -> Any:
        kept: list[Any] = []
        keep = lambda module, given, out: kept.append(out[0].detach())
        hook = list(net.children())[where].register_forward_hook(keep) if record else None
        state, outs = None, []
        for x in xs.unbind(0):
            out, state = net(x, state)
            outs.append(out)
        if hook is not None:
            hook.remove()
        return torch.stack(kept) if record else None, torch.stack(outs)

    return (p for p in net.parameters() if p.dim() > 1), run


def of_spikingjelly(row: Row, weights: Any) -> Any:
    from spikingjelly.activation_based import functional, layer, neuron, surrogate

    lif = lambda mode="m": neuron.LIFNode(
        tau=10.0, decay_input=False, v_reset=None, detach_reset=True, step_mode=mode, surrogate_function=surrogate.ATan()
    )  # fmt: skip
    many = lambda weight: filled(layer.Linear(*weight.shape[::-1], bias=False, step_mode="m"), weight)
    if row.kind == "conv":
        image = lambda weight: conv(weight, layer.Conv2d, step_mode="m")
        net = nn.Sequential(
            image(weights[0]), layer.MaxPool2d(2, step_mode="m"), lif(), image(weights[1]), layer.MaxPool2d(2, step_mode="m"), lif(),
            layer.Flatten(step_mode="m"), many(weights[2]), lif(),
        )  # fmt: skip
    elif row.kind == "recurrent":
        n = row.sizes[1]
        recurrent = layer.LinearRecurrentContainer(lif("s"), n, n, bias=False, step_mode="m")
        # its matrix is for (input, last spikes); the input is a current already, as its documentation does it
        filled(recurrent.rc, torch.cat([torch.eye(n), weights[1]], 1))
        net = nn.Sequential(many(weights[0]), recurrent, many(weights[2]), lif())
    else:
        net = nn.Sequential(many(weights[0]), lif(), many(weights[1]), lif())
    split = 6 if row.kind == "conv" else 2

    def run(xs: Any, record: bool) -> Any:
        functional.reset_net(net)
        hidden = net[:split](xs)
        return hidden, net[split:](hidden)

    return net.parameters(), run


def of_sinabs(row: Row, weights: Any) -> Any:
    import sinabs.layers as sl
    from sinabs.activation import SingleSpike

    more: Any = dict(tau_mem=TAU, norm_input=False, spike_fn=SingleSpike)
    lif = lambda: sl.LIF(**more)
    if row.kind == "conv":
        squeezed = lambda: sl.LIFSqueeze(batch_size=row.batch, **more)
        net = nn.Sequential(
            conv(weights[0]), nn.MaxPool2d(2), squeezed(), conv(weights[1]), nn.MaxPool2d(2), squeezed(), nn.Flatten(),
            dense(weights[2]), squeezed(),
        )  # fmt: skip
    elif row.kind == "recurrent":
        net = nn.Sequential(
            dense(weights[0]), sl.LIFRecurrent(rec_connect=dense(weights[1]), **more), dense(weights[2]), lif()
        )
    else:
        net = nn.Sequential(dense(weights[0]), lif(), dense(weights[1]), lif())
    split = 6 if row.kind == "conv" else 2

    def run(xs: Any, record: bool) -> Any:
        for module in net.modules():
            if isinstance(module, sl.StatefulLayer):
                module.reset_states()
        hidden = net[:split](xs)
        out = net[split:](hidden)
        return hidden, (out.unflatten(0, (row.batch, row.T)) if row.kind == "conv" else out).transpose(0, 1)

    return (p for p in net.parameters() if p.dim() > 1), run


def of_rnn(row: Row, weights: Any) -> Any:
    layer = nn.RNN(*row.sizes, nonlinearity="relu", bias=False)
    with torch.no_grad():
        layer.weight_ih_l0.copy_(weights[0]), layer.weight_hh_l0.copy_(weights[1])
    return layer.parameters(), lambda xs, record: (None, layer(xs)[0])


def products(row: Row, weights: Any, xs: Any) -> Any:
    """The matrix products that the row cannot do without, once over all of time where that can be; nothing pointwise."""
    if row.kind == "conv":
        return convolutions(row, weights, xs)
    x = xs.flatten(0, 1)
    w, v, out = weights[0], weights[1] if len(weights) == 3 or row.kind in ("slstm", "relu") else None, weights[-1]
    readout = row.kind in ("recurrent", "feedforward")
    z = (torch.rand(row.T, row.batch, (v if v is not None else out).shape[1]) < 0.05).float()
    g, h = torch.randn(row.T, row.batch, len(w)), torch.randn(row.T * row.batch, len(out))

    def step() -> Any:
        made = [x @ w.T]
        if v is not None:
            made.append(torch.stack([s @ v.T for s in z.unbind(0)]))
        if readout:
            made.append(z.flatten(0, 1) @ out.T)
        if row.gradient:
            made.append(g.flatten(0, 1).T @ x)
            if v is not None:
                made.append(torch.stack([s @ v for s in g.unbind(0)]))
                made.append(g.flatten(0, 1).T @ z.flatten(0, 1))
            if readout:
                made += [h @ out, h.T @ z.flatten(0, 1)]
        return made

    return step


def convolutions(row: Row, weights: Any, xs: Any) -> Any:
    first, second, last = (w.requires_grad_() for w in weights)
    z = (torch.rand(row.T * row.batch, 12, 12, 12) < 0.05).float().requires_grad_()
    flat = (torch.rand(row.T * row.batch, 1024) < 0.05).float().requires_grad_()
    xs = xs.flatten(0, 1)

    def step() -> Any:
        outs = [max_pool2d(conv2d(xs, first), 2), max_pool2d(conv2d(z, second), 2), linear(flat, last)]
        return torch.autograd.grad(outs, [first, z, second, flat, last], outs)

    return step


NETWORKS = {
    "plain loop": plain_loop, "snntorch": of_snntorch, "norse": of_norse, "spikingjelly": of_spikingjelly, "sinabs": of_sinabs,
    "torch.nn.RNN": of_rnn,
}  # fmt: skip
