"""A stream is cut anywhere, saved, and goes on elsewhere: in another process, in an exported program, in ONNX Runtime.

Run as a script, this file is the other process: it resumes what it finds in a folder and leaves the results beside it.
"""

import io
import os
import subprocess
import sys
import warnings
from pathlib import Path

import optree
import pytest
import torch
from helpers import assert_allclose, assert_equal, at, CASES, needs_torch, scan, sweep
from torch import nn

import snn_functional as snf
from snn_functional import snn


ONE_EACH = {case.name: case for case in reversed(CASES)}  # of every neuron on the list
CHAIN = snf.chain(snf.linear, snf.leaky, snf.linear, snf.synaptic)


def network():
    return nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), snn.Leaky(0.9, threshold=0.4, init_hidden=True),
        nn.Linear(6, 3), snn.RLeaky(0.8, linear_features=3, threshold=0.4, init_hidden=True, output=True),
    ).eval()  # fmt: skip


def stepped(name):
    """The step of this name: all that two processes share."""
    if name == "network":
        return snf.functionalize(network())[0]
    return CHAIN.step if name == "chain" else ONE_EACH[name].neuron.step


def world(name, T=7):
    """Params, a state at rest, and inputs."""
    if name == "network":
        return *snf.functionalize(network())[1:], torch.rand(T, 3, 4)
    if name == "chain":
        weights = lambda *size: snf.Linear(torch.randn(size), torch.zeros(size[:1]))
        params = weights(6, 4), snf.LeakyParams(0.9), weights(3, 6), snf.SynapticParams(0.9, 0.8)
        return params, CHAIN.init(params, torch.rand(3, 4)), torch.rand(T, 3, 4)
    params, xs = ONE_EACH[name].params(4), ONE_EACH[name].inputs(T)
    return params, ONE_EACH[name].neuron.init(params, at(xs, 0)), xs


def running(name):
    """One step in the middle of a stream."""
    params, state, xs = world(name)
    _, state = scan(stepped(name), params, state, at(xs, slice(3)))
    return stepped(name), params, state, at(xs, 3)


NAMES = [*ONE_EACH, "chain", "network"]
each = pytest.mark.parametrize("name", NAMES)
AS_USERS_DO = {"leaky", "chain", "network"}  # kind="auto"; the others would have to wait for the compiler


def resumed(name, params, state, xs):
    """What comes and the last state; and the gradients of a mixture of both."""
    params, state, xs = optree.tree_map(lambda x: x.clone().requires_grad_(x.is_floating_point()), (params, state, xs))
    run = snf.scan if name in AS_USERS_DO else scan
    results = run(stepped(name), params, state, xs)
    reals = [x for x in optree.tree_leaves(results) if x.requires_grad]
    sum((x * torch.linspace(-1, 2, x.numel()).view(x.shape)).sum() for x in reals).backward()
    return optree.tree_map(torch.Tensor.detach, results), [x.grad for x in optree.tree_leaves((params, state, xs))]


@pytest.mark.long
@needs_torch("2.4", "before, no class can be said to be safe to load")
def test_resumed_in_another_process(tmp_path):
    """Bit for bit: the spikes, the last state, and all gradients."""
    expected, saved = {}, {}
    for name in NAMES:
        params, state, xs = world(name)
        _, middle = scan(stepped(name), params, state, at(xs, slice(3)))
        saved[name] = params, middle, at(xs, slice(3, None))
        expected[name] = resumed(name, *saved[name])
    torch.save(saved, tmp_path / "middle.pt")
    paths = os.pathsep.join(str(Path(file).parent) for file in (Path(snf.__file__).parent, __file__))
    subprocess.run(
        [sys.executable, __file__, tmp_path], env=os.environ | {"PYTHONPATH": paths}, check=True, timeout=300
    )
    found = torch.load(tmp_path / "end.pt", weights_only=True)
    assert list(found) == NAMES
    for name in NAMES:
        assert_equal(found[name], expected[name])
        outs, gradients = expected[name]
        assert any(x.any() for x in optree.tree_leaves(outs)) and any(x is not None and x.any() for x in gradients), (
            name
        )


@each
def test_flat_names_and_back(name):
    """Through `named_leaves`, a plain dictionary of tensors; and through safetensors, where that is installed."""
    _, params, state, _ = running(name)
    for tree in (params, state):
        named = snf.named_leaves(tree)
        assert all(isinstance(key, str) and isinstance(x, torch.Tensor) for key, x in named.items())
        other = optree.tree_map(torch.zeros_like, tree)
        assert_equal(snf.with_leaves(other, named), tree)
        backwards = dict(reversed(named.items()))
        assert_equal(snf.with_leaves(other, backwards), tree)


@each
def test_safetensors(name, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    step, params, state, x = running(name)
    safetensors.save_file(snf.named_leaves((params, state)), tmp_path / "stream.safetensors")
    loaded = snf.with_leaves((params, state), safetensors.load_file(tmp_path / "stream.safetensors"))
    assert_equal(loaded, (params, state))
    # Their memory is aligned otherwise, and a product may then round otherwise: a copy is torch's again.
    assert_equal(step(*optree.tree_map(torch.clone, loaded), x), step(params, state, x))


def test_the_names_of_leaves():
    V = snf.Linear(torch.eye(2), torch.zeros(2))
    tree = {"a": (snf.LeakyParams(0.9), [torch.ones(2)]), "b": snf.RLeakyParams(0.9, V)}
    named = snf.named_leaves(tree)
    names = ["a.0.beta", "a.0.threshold", "a.1.0", "b.beta", "b.V.weight", "b.V.bias", "b.threshold"]
    assert sorted(named) == sorted(names) and named["b.V.weight"] is V.weight
    assert list(snf.named_leaves(torch.ones(2))) == [""] and snf.named_leaves(()) == {}
    with pytest.raises(ValueError, match="two leaves are named 'a.b'"):
        snf.named_leaves({"a.b": torch.ones(()), "a": {"b": torch.ones(())}})
    named["b.v"] = named.pop("b.V.bias")
    with pytest.raises(ValueError, match=r"with_leaves\(dict, named\): missing \['b.V.bias'\], unknown \['b.v'\]"):
        snf.with_leaves(tree, named)


class Exportable(nn.Module):
    """A step as `torch.export` saves it: all that comes and goes is a tensor or a dictionary of them."""

    def __init__(self, step, params, state):
        super().__init__()
        self.step, self.trees = step, (params, state)

    def forward(self, params, state, x):
        params, state = map(snf.with_leaves, self.trees, (params, state))
        return tuple(map(snf.named_leaves, self.step(params, state, x)))


def exported(step, params, state, x):
    arguments = snf.named_leaves(params), snf.named_leaves(state), x
    return torch.export.export(Exportable(step, params, state), arguments, strict=False)


def others(params, state, x):
    """Arguments that the exporter has not seen, flat."""
    moved = optree.tree_map(lambda t: t * 0.97 if t.is_floating_point() else t, (params, state, x))
    return moved, (snf.named_leaves(moved[0]), snf.named_leaves(moved[1]), moved[2])


@sweep("name", NAMES, of=("leaky", "slstm", "refractory", "chain", "network"))
@needs_torch("2.6", "non-strict export of modules that call optree")
def test_exported_saved_and_loaded(name):
    """With params, state and input given to the program, and its numbers bit for bit those of the step."""
    step, *given = running(name)
    file = io.BytesIO()
    torch.export.save(exported(step, *given), file)
    file.seek(0)
    program = torch.export.load(file).module()
    trees, flat = others(*given)
    expected = step(*trees)
    assert_equal(tuple(map(snf.with_leaves, expected, program(*flat))), expected)


def names(returned):
    """A name for each tensor that a step returns: "spk", or "spk.a" where it is a tree, and "next.mem"."""
    return [
        ".".join(filter(None, (of, name)))
        for of, tree in zip(("spk", "next"), returned)
        for name in snf.named_leaves(tree)
    ]


@each
@needs_torch("2.6", "the exporter that reads exported programs")
def test_onnx_runtime(name, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript, which torch's ONNX exporter is written in, is not installed")
    step, *given = running(name)
    program = exported(step, *given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own
        onnx = torch.onnx.export(program, dynamo=True, verbose=False, output_names=names(step(*given)))
        onnx.save(tmp_path / "step.onnx")
    session = runtime.InferenceSession(tmp_path / "step.onnx", providers=["CPUExecutionProvider"])
    trees, flat = others(*given)
    inputs = zip(session.get_inputs(), torch.utils._pytree.tree_leaves(flat), strict=True)
    found = session.run(None, {one.name: x.numpy() for one, x in inputs})
    assert [one.name for one in session.get_outputs()] == names(step(*given))
    expected = [x for tree in step(*trees) for x in snf.named_leaves(tree).values()]
    assert_allclose([torch.from_numpy(x) for x in found], expected, rtol=1e-5, atol=1e-6)


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    middle = torch.load(folder / "middle.pt", weights_only=True)
    torch.save({name: resumed(name, *middle[name]) for name in middle}, folder / "end.pt")
