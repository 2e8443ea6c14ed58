"""Golden vectors: what snnTorch 1.0.0 and 0.4.11 computed once, against what is computed here.

A case of `data/golden.json` names a layer, its input, its outputs over 50 steps, and the gradients of

    L = sum over spikes and states of (weight * output).sum()

A runner `run(case) -> (outputs, grads)` computes these. The ledger says of every case what became of it: "matched", or why not.
"""

import collections
import dataclasses
import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import scan
from torch import nn

import snn_functional as snf
from snn_functional import snn


DATA = Path(__file__).parent / "data"
GOLDEN = json.loads((DATA / "golden.json").read_text())
ARRAYS = np.load(DATA / "golden.npz")
CASES = {case["id"]: case for case in GOLDEN["cases"]}

# Where snnTorch is odd or wrong: followed or refused, each on purpose.
QUIRKS = {
    "1.0.0/Leaky/nodelay-zero/f64": "matched",
    "1.0.0/Leaky/nodelay-subtract/f64": "refused: bug B1, a membrane that stays above the threshold loses its next spike",
    "1.0.0/Synaptic/nodelay/f64": "refused: bug B1, a membrane that stays above the threshold loses its next spike",
    "1.0.0/Lapicque/beta0.3-negative-decay/f64": "matched",
    "0.4.11/Lapicque/beta0.3-negative-decay/f64": "matched",
    "1.0.0/Alpha/a0.9-b0.8-subtract/f32": "matched",
    "1.0.0/Alpha/a0.9-b0.8-subtract/f64": "matched",
    "0.4.11/Alpha/hidden/f32": "refused: bug S1, the inhibitory current is never stored, so mem = tau syn_exc",
}
# snnTorch's spikes are float32 in a float64 layer; in these cases the gradient is multiplied there, and rounded.
ROUNDED = {
    "1.0.0/Leaky/graded/f64": "times the graded spikes' factor",
    "1.0.0/Leaky/nodelay-zero/f64": "summed with the gradient through the reset",
    "1.0.0/Leaky/sigmoid5/f64": "times the sigmoid's slope",
    "0.4.11/Leaky/sigmoid5/f64": "times the sigmoid's slope",
}
# Their float32 alpha and beta have logarithms that torch rounds in another way from version to version.
LOGARITHMS = {"1.0.0/Alpha/vec/f64", "0.4.11/Alpha/vec/f64"}


def verdict(case):
    return QUIRKS.get(case["id"], "matched")


def array(key):
    return torch.from_numpy(ARRAYS[key])


def number(value):
    """As snnTorch stores it: a Python number is a float32 tensor, whatever the input's dtype."""
    if not isinstance(value, dict):
        return torch.tensor(float(value))
    if "f64" in value:
        return torch.tensor(value["f64"], dtype=torch.float64)
    return torch.tensor(value["array"], dtype=getattr(torch, value.get("dtype", "float32")))


def tensors(case):
    """Everything a gradient can be asked for, by its name in `case["grads"]`."""
    numbers = {k: number(v) for k, v in case["kwargs"].items() if not isinstance(v, (bool, str))}
    arrays = {"x": case["input"], **{f"{name}0": key for name, key in (case.get("init_state") or {}).items()}}
    return {name: array(key).to(getattr(torch, case["dtype"])) for name, key in arrays.items()} | numbers


def choices(case):
    """The version's dialect in this library's choices."""
    old = case["lib"] == "0.4.11"
    spike = case["surrogate"] or {"name": "heaviside" if old else "atan"}
    chosen = {"spike_grad": getattr(snf.surrogate, spike["name"])(**spike.get("args", {}))}
    reset = case["kwargs"].get("reset_mechanism")
    if old and case["neuron"] == "Leaky" and reset == "zero":
        reset = "clear"
    if old and case["neuron"] == "Alpha":
        reset = "zero"
    return {**chosen, "reset_mechanism": reset} if reset else chosen


def loss(case, outputs):
    return sum((array(key) * outputs[name]).sum() for name, key in case["weights"].items())


def run_steps(case):
    """The pure steps, scanned."""
    neuron = getattr(snf, case["neuron"].lower())
    make = snf.lapicque_params if case["neuron"] == "Lapicque" else neuron.Params
    step = neuron.step
    if case["kwargs"].get("inhibition"):
        step = snf.inhibit(step)
    if case["kwargs"].get("reset_delay") is False:
        step = snf.immediate_reset(step)

    def recorded(params, state, x):
        spk, state = step(params, state, x)
        return {"spk": spk, **vars(state)}, state

    def forward(wanted, fixed):
        given = {**fixed, **wanted}
        x, graded = given.pop("x"), given.pop("graded_spikes_factor", 1.0)
        state = {f.name: given.pop(f"{f.name}0", None) for f in dataclasses.fields(neuron.State)}
        params = make(**given, **choices(case))
        start = neuron.State(**state) if case.get("init_state") else neuron.init(params, x[0])
        outputs, _ = scan(recorded, params, start, x)
        outputs["spk"] = outputs["spk"] * graded
        return loss(case, outputs), outputs

    everything = tensors(case)
    wanted = {name: everything.pop(name) for name in case["grads"]}
    grads, outputs = torch.func.grad(forward, has_aux=True)(wanted, everything)
    return outputs, grads


def close(kind, actual, key, dtype=None):
    expected = array(key)
    tolerance = GOLDEN["meta"]["tolerance"][kind][dtype or str(expected.dtype).removeprefix("torch.")]
    message = functools.partial("{}: {}".format, key)
    torch.testing.assert_close(actual.to(expected.dtype), expected, **tolerance, msg=message)


def compare(case, outputs, grads):
    assert outputs.keys() == case["outputs"].keys() and grads.keys() == case["grads"].keys()
    for name, key in case["outputs"].items():
        assert str(outputs[name].dtype) == f"torch.{case['dtype']}"
        if name == "spk":
            assert torch.equal(outputs[name].double(), array(key).double()), f"{key}: spikes differ"
        else:
            close("state", outputs[name], key, "float32" if case["id"] in LOGARITHMS else None)
    for name, key in case["grads"].items():
        close("grad", grads[name], key, "float32" if case["id"] in {*ROUNDED, *LOGARITHMS} else None)


RUNNERS = [run_steps]
each_runner = pytest.mark.parametrize("run", RUNNERS, ids=lambda run: run.__name__)


@pytest.mark.fidelity(
    model="all neurons of snnTorch",
    reference="snnTorch 1.0.0, recorded",
    compared="169 cases: outputs, states, gradients",
    closely="to rounding",
    differs="3 cases are refused as bugs (`test_refused_on_purpose`)",
)
@each_runner
@pytest.mark.parametrize("id", [id for id, case in CASES.items() if verdict(case) == "matched"])
def test_matched(run, id):
    compare(CASES[id], *run(CASES[id]))


@each_runner
@pytest.mark.parametrize("id", [id for id, case in CASES.items() if verdict(case).startswith("refused")])
def test_refused_on_purpose(run, id):
    with pytest.raises(AssertionError, match="spikes differ"):
        compare(CASES[id], *run(CASES[id]))


def test_ledger():
    assert set(QUIRKS) == {id for id, case in CASES.items() if case["quirk"]}
    counts = collections.Counter(verdict(case).split(":")[0] for case in CASES.values())
    assert counts == {"matched": 169, "refused": 3}
    assert sum(counts.values()) == len(GOLDEN["cases"]) == 172
    assert collections.Counter(net["kind"] for net in GOLDEN["networks"]) == {
        "forward": 6,
        "BPTT": 4,
        "TBPTT": 4,
        "RTRL": 2,
    }


def network(net):
    """The layers of a golden network, in its version's dialect."""
    old = net["lib"] == "0.4.11"
    spike = net["surrogate"] or {"name": "heaviside" if old else "atan"}
    layers = []
    for i, layer in enumerate(net["layers"]):
        linear = nn.Linear(*net["sizes"][i : i + 2])
        linear.load_state_dict({"weight": array(net["arrays"][f"W{i}"]), "bias": array(net["arrays"][f"b{i}"])})
        given = {name: number(x) if isinstance(x, dict) else x for name, x in layer["kwargs"].items()}
        if old and given.get("reset_mechanism") == "zero" and layer["neuron"] == "Leaky":
            given["reset_mechanism"] = "clear"
        spike_grad = getattr(snf.surrogate, spike["name"])(**spike.get("args", {}))
        last = {"output": i == len(net["layers"]) - 1}
        layers += [linear, getattr(snn, layer["neuron"])(**given, spike_grad=spike_grad, init_hidden=True, **last)]
    return nn.Sequential(*layers)


@pytest.mark.parametrize("go", ["run", "loop"])
@pytest.mark.parametrize(
    "net", [net for net in GOLDEN["networks"] if net["kind"] == "forward"], ids=lambda net: net["id"]
)
def test_networks(net, go):
    layers, x = network(net), array(net["arrays"]["x"]).requires_grad_()
    steps = [layers(step) for step in x.unbind(0)] if go == "loop" else None
    spk, *_, mem = snn.run(layers, x) if steps is None else map(torch.stack, zip(*steps))
    assert torch.equal(spk, array(net["arrays"]["out_spk"])) and spk.sum() == (spk > 0).sum()
    close("state", mem, net["arrays"]["out_mem"])
    (sum((array(net["arrays"][f"w_{name}"]) * y).sum() for name, y in (("spk", spk), ("mem", mem)))).backward()
    found = {"x": x.grad, **{name: p.grad for name, p in layers.named_parameters()}}
    for name, slope in found.items():
        close("grad", slope, net["arrays"][f"grad_{name}"])
