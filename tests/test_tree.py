"""`@pytree`: what a user builds is checked and made of tensors, what a transform rebuilds is left alone."""

from __future__ import annotations  # so that annotations are strings here, as in many users' files

import dataclasses
from typing import Any

import optree
import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

import snn_functional as snf
from snn_functional import Leaf, leaf, pytree, static
from snn_functional.surrogate import ATan, Spike


@pytree
class Cell:
    decay: Leaf
    gain: Leaf = leaf(default=2)
    mode: str = static(default="soft", choices=("soft", "hard"))
    tag: Any = static(default=None)


@pytree
class Net:
    weight: Tensor
    cells: tuple[Cell, ...]
    extra: dict[str, Tensor] | None = leaf(default=None)


def test_numbers_become_tensors_and_tensors_stay_the_same_object():
    decay = torch.rand(3)
    cell = Cell(decay)
    assert cell.decay is decay
    assert torch.equal(cell.gain, torch.tensor(2.0)) and cell.gain.dtype == torch.get_default_dtype()


def test_a_tree_is_frozen_and_compares_by_identity():
    cell = Cell(0.9)
    with pytest.raises(dataclasses.FrozenInstanceError):
        cell.decay = torch.zeros(())  # pyright: ignore
    assert cell == cell and cell != Cell(0.9) and len({cell, cell}) == 1


def test_leaves_are_the_tensors_and_choices_are_structure():
    leaves, spec = optree.tree_flatten(Cell(0.9, 1.0))
    assert [float(x) for x in leaves] == [pytest.approx(0.9), 1.0]
    assert spec == optree.tree_structure(Cell(0.1)) != optree.tree_structure(Cell(0.1, mode="hard"))
    assert optree.tree_map(lambda x: x + 1, Cell(0.9, mode="hard")).mode == "hard"
    assert optree.tree_paths(Net(torch.zeros(2), (Cell(0.9),)))[0] == ("weight",)


def test_rebuilding_neither_converts_nor_checks():
    axes = optree.tree_map(lambda _: 0, Cell(0.9))
    assert axes.decay == 0 and type(axes.decay) is int
    assert optree.tree_map(lambda _: None, Cell(0.9)).decay is None
    assert torch.isnan(optree.tree_map(lambda x: x * float("nan"), Cell(0.9)).decay)


def test_trees_nest_and_pass_through_torch_func():
    net = Net(torch.rand(3), (Cell(0.9), Cell(torch.rand(3), mode="hard")), {"bias": torch.zeros(3)})
    loss = lambda net: (net.weight * net.cells[1].decay + net.extra["bias"]).sum() * net.cells[0].gain
    grads = grad(loss)(net)
    assert isinstance(grads, Net) and grads.cells[1].mode == "hard"
    assert torch.equal(grads.weight, 2 * net.cells[1].decay)
    stacked = optree.tree_map(lambda x: torch.stack([x, 2 * x]), net)
    assert torch.allclose(vmap(loss)(stacked), torch.stack([loss(net), loss(optree.tree_map(lambda x: 2 * x, net))]))


@pytest.mark.parametrize(
    "build, error, says",
    [
        (lambda: Cell("0.9"), TypeError, r"Cell\(decay='0.9'\): decay is a leaf"),
        (lambda: Cell(True), TypeError, "is a leaf of the tree, a number or a tensor"),
        (lambda: Cell(Cell), TypeError, r"Cell\(decay=...\): .* but the class Cell came. Make one: decay=Cell\(...\)"),
        (
            lambda: snf.RecurrentParams(snf.LeakyParams(0.9), torch.nn.Linear(3, 3)),
            TypeError,
            r"but the module Linear came. A layer's weights are a tree: V=Linear\(layer.weight, layer.bias\)",
        ),
        (lambda: snf.RecurrentParams(snf.LeakyParams(0.9), snf.Linear), TypeError, "the class Linear came"),
        (lambda: snf.LeakyParams(0.9, spike_grad="atan"), TypeError, r"spike_grad='atan'\): .*surrogate.atan\(\)"),
        (lambda: Cell([0.9, 0.8]), TypeError, r"Cell\(decay=...\) takes a number or a tensor, not list"),
        (
            lambda: Cell(torch.tensor([1, 2])),
            TypeError,
            r"takes a floating tensor, not torch.int64: give decay.float\(\)",
        ),
        (lambda: Cell(None), TypeError, r"not NoneType. For the axes of vmap: optree.tree_map"),
        (lambda: snf.LeakyParams(0.9, spike_grad=snf.surrogate.ATan), TypeError, r"ATan\): a class. Give ATan\(\)"),
        (lambda: snf.Conv2d(torch.ones(1, 1, 4, 3)), ValueError, "half of an even kernel"),
        (lambda: Cell(float("nan")), ValueError, r"Cell\(decay=...\) holds NaN"),
        (lambda: Cell(torch.tensor([0.9, float("nan")])), ValueError, "holds NaN"),
        (lambda: Cell(0.9, mode="medium"), ValueError, "unknown choice. It is one of 'soft', 'hard'"),
        (lambda: dataclasses.replace(Cell(0.9), mode="medium"), ValueError, "unknown choice"),
    ],
)
def test_what_cannot_be_right_is_refused(build, error, says):
    with pytest.raises(error, match=says):
        build()


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda x: snf.leaky_init(0.9, x), r"A neuron's params is a tree, LeakyParams\(beta=0.9\), but 0.9 came"),
        (
            lambda x: snf.alpha_init(snf.AlphaParams, x),
            r"AlphaParams\(alpha, beta, .*\), but the class AlphaParams came",
        ),
        (lambda x: snf.leaky_step({"beta": 0.9}, snf.LeakyState(x), x), "params is a tree, .* but a dict came"),
        (
            lambda x: snf.leaky_step(snf.LeakyParams(0.9), x, x),
            r"state is a tree, leaky_init\(params, input\).* a Tensor",
        ),
        (
            lambda x: snf.recurrent(snf.leaky).init(snf.RecurrentParams(0.9, 1.0), x),
            "params is a tree, .* a Tensor came",
        ),
    ],
)
def test_what_is_no_tree_is_refused_by_a_neuron(call, says):
    with pytest.raises(TypeError, match=says):
        call(torch.rand(2, 3))


def test_infinity_is_a_threshold():
    assert torch.isinf(snf.LeakyParams(0.9, threshold=float("inf")).threshold)


def test_building_inside_transforms_and_a_double_default():
    assert vmap(lambda b: Cell(b).decay * 2)(torch.ones(4)).shape == (4,)
    assert grad(lambda b: Cell(b).decay ** 2)(torch.tensor(3.0)) == 6.0
    torch.set_default_dtype(torch.float64)
    try:
        assert Cell(0.9).decay.dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_safe_loading_of_a_tree_of_ones_own(tmp_path):
    if not hasattr(torch.serialization, "add_safe_globals"):
        pytest.skip("torch before 2.4 cannot be told that a class is safe to load")
    net = Net(torch.rand(3), (Cell(0.9, tag="a"), Cell(0.8, mode="hard")), {"bias": torch.zeros(3)})
    torch.save(net, tmp_path / "net.pt")
    back = torch.load(tmp_path / "net.pt", weights_only=True)
    assert optree.tree_structure(back) == optree.tree_structure(net) and back.cells[0].tag == "a"
    assert all(torch.equal(a, b) for a, b in zip(optree.tree_leaves(back), optree.tree_leaves(net)))


def test_a_field_called_as_a_surrogate_is_of_the_type_that_it_says():
    @snf.pytree
    class Named:
        beta: torch.Tensor
        spike_grad: str = snf.static(default="atan")

    @snf.pytree
    class Fires:
        beta: torch.Tensor
        spike_grad: Spike = snf.static(default=ATan())

    beta = torch.tensor(0.9)
    assert Named(beta).spike_grad == "atan" and Fires(beta, abs).spike_grad is abs
    with pytest.raises(TypeError, match="expected a surrogate"):
        Fires(beta, "atan")
