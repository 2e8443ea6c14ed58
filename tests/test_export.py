"""Scans under `torch.export`: a graph whose size does not depend on T, which runs where the library is imported."""

import base64
import pickle
import subprocess
import sys
import zlib

import pytest
import torch
from compiled import dyadic, KERNELS, kernels_in, pointwise, recurrent, Run, same, size, spikes, two_layers
from helpers import needs_torch
from torch import nn

from snn_functional import scan
from snn_functional._scan import _known
from snn_functional.kernels import packed, unpacked


pytestmark = needs_torch("2.13", "a scan that torch.export sees as an operation")


class Over(nn.Module):
    """A step over time, which holds its own tensors."""

    def __init__(self, world):
        super().__init__()
        self.step, self.params, self.state, _ = world()
        self.gain = nn.Parameter(torch.tensor(0.5))

    def forward(self, xs):
        return scan(lambda p, s, x: self.step(p, s, self.gain * x), self.params, self.state, xs)[0]


@pytest.mark.parametrize("world", [pointwise, two_layers, recurrent])
def test_its_size_does_not_depend_on_the_length(world):
    net = Over(world)
    programs = [torch.export.export(net, (spikes(T),)) for T in (9, 5000)]
    assert size(programs[0].graph_module) == size(programs[1].graph_module) < 90
    assert kernels_in([programs[0].graph_module]) == KERNELS[world]
    xs = spikes()
    same(programs[0].module()(xs), net(xs))


@pytest.mark.parametrize("world", [pointwise, two_layers, recurrent, Run])
def test_any_length(world):
    net = world() if world is Run else Over(world)
    T = torch.export.Dim("T", min=3, max=1000)
    program = torch.export.export(net, (spikes(9),), dynamic_shapes=({0: T},))
    for xs in (spikes(5), spikes(77)):
        same(program.module()(xs), net(xs))


@pytest.mark.long
def test_saved_and_loaded_in_another_process(tmp_path):
    net, xs = Over(recurrent), spikes()
    torch.export.save(torch.export.export(net, (xs,)), tmp_path / "net.pt2")
    torch.save((xs, net(xs).detach()), tmp_path / "tensors.pt")
    code = """
import sys, torch, snn_functional
xs, ys = torch.load(sys.argv[1] + "/tensors.pt")
print(torch.equal(torch.export.load(sys.argv[1] + "/net.pt2").module()(xs), ys))
"""
    call = [sys.executable, "-c", code, str(tmp_path)]
    assert subprocess.run(call, capture_output=True, text=True, check=True).stdout == "True\n"


def test_what_is_exported_refuses_to_be_differentiated():
    program = torch.export.export(Over(pointwise), (spikes(),)).module()
    with pytest.raises(RuntimeError, match="an exported graph has no derivative"):
        program(spikes()).sum().backward()


def test_operations_are_what_they_promise_to_a_tracer():
    """Their schemas, the shapes and strides that they are said to give, and that they give nothing that they were given."""
    prepared = _known.prepare(*pointwise(), None)
    leaves = prepared.leaves
    plan, uniform = prepared.known.plan, tuple(x.numel() == 1 for x in leaves[:2])
    kernel = packed(plan.forward(uniform))
    check = ("test_schema", "test_faketensor")
    ops = torch.ops.snn_functional
    torch.library.opcheck(ops.scan, (kernel, leaves, [4, 3], 9, False, 4), test_utils=check)
    back = packed(plan.backward(uniform, (0, 2, 3), "cpu", prepared.source))
    cotangents = [torch.rand(9, 4, 3), torch.rand(4, 3)]
    torch.library.opcheck(ops.scan_backward, (back, leaves, cotangents, [], [4, 3], 9, False, 4), test_utils=check)
    z, w, g = dyadic(1, 50, 20), dyadic(2, 20, 30), dyadic(1, 50, 30)
    torch.library.opcheck(ops.product, (z, w, None), test_utils=check)
    torch.library.opcheck(ops.product, (z, w, dyadic(2, 30)), test_utils=check)
    torch.library.opcheck(ops.outer, (z, g, False), test_utils=check)
    torch.library.opcheck(ops.outer, (z, g, True), test_utils=check)


def test_a_kernel_as_text_is_the_kernel_and_nothing_else():
    plan = _known.prepare(*pointwise(), None).known.plan
    kernel = plan.forward((False, True))
    again = unpacked(packed(kernel))
    assert again.kernel is kernel.kernel and again.numbers == kernel.numbers

    class Evil:
        def __reduce__(self):
            return print, ("run",)

    with pytest.raises(pickle.UnpicklingError, match="no part of a kernel"):
        unpacked(base64.b64encode(zlib.compress(pickle.dumps(Evil()))).decode())
