"""What stands in a training script: ten things that are done with a network, and what takes a thing's place.

    torchrun --nproc-per-node 2 tests/citizens.py

Each thing is a function of one of the six ways of ways.py. It raises where outputs or gradients are not those of the plain loop. The tests
call every pair, the script the two things of many processes.
"""

import concurrent.futures
import copy
import importlib
import io
from typing import Any, NamedTuple
from unittest import mock

import optree
import pytest
import torch
import torch.distributed as dist
from compiled import Graphs, kernels_in
from processes import by_one_all_reduce
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from ways import (
    BATCH,
    faces,
    FUNCTIONALIZED,
    InAModule,
    loss_of,
    Numbers,
    numbers,
    plain,
    Pure,
    same,
    STEPS,
    TREES,
    WAYS,
    weight,
    xs,
)

import snn_functional as snf
from snn_functional import snn


def compile_(way, backend=None):
    """Without a graph break; a scan is one operation."""
    torch.compiler.reset()
    made, graphs, expected = WAYS[way](), Graphs(), plain(way).spks
    fast = torch.compile(made.target, backend=backend or graphs, fullgraph=True)
    with torch.no_grad():
        assert torch.equal(made.over(fast, xs()), expected)
    assert backend or (kernels_in(graphs.forward) > 0) == (way != STEPS)


def compile_and_backward(way, backend="aot_eager"):
    torch.compiler.reset()
    made = WAYS[way]()
    fast = torch.compile(made.target, backend=backend, fullgraph=True)
    same(numbers(lambda xs: made.over(fast, xs), made.learned, xs()), plain(way))


def export(way):
    """For any T; the faces' step by step is one of a step, with its state as input and output."""
    made = WAYS[way]()
    if way != STEPS:
        module, given = made.exported() if way == FUNCTIONALIZED else (made.module(), ())
        dynamic = (*optree.tree_map(lambda _: None, given), {0: torch.export.Dim("T", min=3)})
        program = torch.export.export(module, (*given, xs()[:5]), dynamic_shapes=dynamic).module()
        assert torch.equal(program(*given, xs()), plain(way).spks)
        return
    step, params, state = snf.functionalize(made.target)
    shapes = {name: x.shape for name, x in step(params, state, xs()[0])[1].items()}
    state = {name: x.expand(shapes[name]) for name, x in state.items()}  # a 0-d zero at rest, as large as its input
    program = torch.export.export(InAModule(step), (params, state, xs()[0])).module()
    spks = []
    for x in xs():
        spk, state = program(params, state, x)
        spks.append(spk)
    assert torch.equal(torch.stack(spks), plain(way).spks)


def autocast(way):
    made = WAYS[way]()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.nn.functional.linear(xs()[0], weight(8, 6)).dtype == torch.bfloat16
        found = numbers(lambda xs: made.over(made.target, xs), made.learned, xs())
    assert {x.dtype for x in (found.spks, *found.grads)} == {torch.float32}
    same(found, plain(way), rtol=0.05, atol=1e-4)


def mine():
    """This process's part of the batch."""
    rank, size = dist.get_rank(), dist.get_world_size()
    return slice(BATCH * rank // size, BATCH * (rank + 1) // size)


def of_my_part(way, run, learned, together=lambda grads: grads):
    """Its spikes are those of the part, its gradients, after all have put theirs together, those of the whole batch."""
    for p in learned:
        p.grad = None
    spks = run(xs()[:, mine()])
    loss_of(spks).backward()
    grads = together([p.grad for p in learned])
    grads = [g.full_tensor() if hasattr(g, "full_tensor") else g for g in grads]
    expected = plain(way)
    same(Numbers(spks.detach(), grads), Numbers(expected.spks[:, mine()], expected.grads))


def distributed_data_parallel(way):
    made = WAYS[way]()
    if way == FUNCTIONALIZED:
        of_my_part(way, made.target, made.learned, by_one_all_reduce)
        return
    # torch 2.4's writes to buffers at each call, and the graph of the call before needs them; torch 2.13 has another name for the option.
    options = {"broadcast_buffers": False} if way == STEPS and torch.__version__ < "2.13" else {}
    parallel = DistributedDataParallel(made.module(), **options)
    for _ in "ab":
        of_my_part(way, lambda xs: made.over(parallel, xs), list(parallel.parameters()))


def fully_sharded(way):
    from torch.distributed.fsdp import fully_shard

    if way == FUNCTIONALIZED:
        sharded = faces((1,))
        step, _, state = snf.functionalize(sharded)
        fully_shard(sharded)
        with pytest.raises(TypeError, match=r"its 0\.weight is sharded.*snn\.run\(module, xs\).*p\.full_tensor\(\)"):
            snf.functionalize(sharded)
        whole = {name: p.full_tensor() for name, p in sharded.named_parameters()}
        assert torch.equal(snf.scan(step, whole, state, xs())[0], plain(way).spks)
        of_my_part(way, lambda xs: snn.run(sharded, xs), list(sharded.parameters()))
        return
    with pytest.raises(ValueError, match="Change beta to a 1D tensor"):
        fully_shard(WAYS[way]().module())
    made = WAYS[way]((1,))
    sharded = fully_shard(made.module())
    for _ in "ab":
        of_my_part(way, lambda xs: made.over(sharded, xs), list(sharded.parameters()))


def data_parallel(way):
    """Two threads, each with half of the batch and, of a module, with a replica: torch's own, told that a broadcast is a view."""
    made = WAYS[way]()
    if isinstance(made, Pure):
        in_halves(way, made, [made.target] * 2, made.learned)
    if way != FUNCTIONALIZED:
        module = made.module()
        on_cpu = nn.DataParallel(module, dim=0 if way == STEPS else 1)  # the module itself
        assert torch.equal(made.over(on_cpu, xs()), plain(way).spks)
        in_halves(way, made, replicas(module), list(module.parameters()))


def replicas(module):
    torchs = importlib.import_module("torch.nn.parallel.replicate")
    views = lambda tensors, devices, detach=False: [[x.view_as(x) for x in tensors] for _ in devices]
    with mock.patch.object(torchs, "_broadcast_coalesced_reshape", views):
        return torchs.replicate(module, [0, 1])


def in_halves(way, made, runs, learned):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        halves = list(pool.map(made.over, runs, xs().split(BATCH // 2, dim=1)))
    spks = torch.cat(halves, 1)
    same(Numbers(spks.detach(), torch.autograd.grad(loss_of(spks), learned)), plain(way))


def grad_scaler(way):
    """A step with a scale is the step without; a step with an inf is none."""
    made = WAYS[way]()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = torch.optim.SGD(made.learned, lr=0.5)
    before = [p.detach().clone() for p in made.learned]
    for times in (1.0, float("inf")):
        optimizer.zero_grad()
        spks = made.over(made.target, xs())
        scaler.scale(times * loss_of(spks)).backward()
        scaler.step(optimizer)
        scaler.update()
        for p, old, g in zip(made.learned, before, plain(way).grads, strict=True):
            torch.testing.assert_close(p.detach(), old - 0.5 * g)
    assert scaler.get_scale() == 512.0


def deepcopy(way):
    """In the middle of training, where hidden states have a graph; the copy is its own."""
    made = WAYS[way]()
    loss_of(made.over(made.target, xs())).backward()
    twin = copy.deepcopy(made)
    same(numbers(lambda xs: twin.over(twin.target, xs), twin.learned, xs()), plain(way))
    with torch.no_grad():
        twin.learned[0].zero_()
    assert not twin.over(twin.target, xs()).any()
    same(numbers(lambda xs: made.over(made.target, xs), made.learned, xs()), plain(way))


def state_dict(way):
    """Saved, and loaded into one that has other numbers."""
    file, other = io.BytesIO(), WAYS[way]((), 5)
    torch.save(WAYS[way]().saved(), file)
    file.seek(0)
    run = lambda xs: other.over(other.target, xs)
    assert not torch.equal(run(xs()), plain(way).spks)
    other.load(torch.load(file, weights_only=True))
    same(numbers(run, other.learned, xs()), plain(way))


class Thing(NamedTuple):
    """- `instead`: the letters of what takes its place, for some ways. - `torch`: from which version on."""

    cell: Any
    torch: str
    instead: dict[str, str] = {}


MODULE = dict.fromkeys(TREES, "a")
THINGS = {
    "`torch.compile`": Thing(compile_, "2.13"),
    "the same with its backward": Thing(compile_and_backward, "2.13"),
    "`torch.export`": Thing(export, "2.13", MODULE | {STEPS: "b", FUNCTIONALIZED: "c"}),
    "`torch.autocast`": Thing(autocast, "2.0"),
    "DDP": Thing(distributed_data_parallel, "2.0", MODULE | {STEPS: "i", FUNCTIONALIZED: "d"}),
    "FSDP2, `fully_shard`": Thing(
        fully_sharded, "2.6", dict.fromkeys(WAYS, "f") | dict.fromkeys(TREES, "a, f") | {FUNCTIONALIZED: "e"}
    ),
    "DataParallel": Thing(data_parallel, "2.0", {FUNCTIONALIZED: "g"} | dict.fromkeys(TREES, "a, g")),
    "GradScaler": Thing(grad_scaler, "2.3"),
    "`copy.deepcopy`": Thing(deepcopy, "2.0"),
    "`state_dict`": Thing(state_dict, "2.4", dict.fromkeys([*TREES, FUNCTIONALIZED], "h")),
}
NOTES = {
    "a": "it takes modules: `snf.module(neuron, params)` is one; of a step of your own with `snf.Neuron(Params, State, init, step)`.",
    "b": "one step, its state as input and output (of `functionalize`); a whole sequence by `snn.run`.",
    "c": "in a module of your own, whose forward takes params and state, and calls `scan`.",
    "d": "one `all_reduce` of the dictionary of gradients.",
    "e": "refused: shard the module itself, and call it, or `snn.run`.",
    "f": "torch shards no scalar: a decay that is learned is `torch.tensor([0.9])`.",
    "g": "a pure function needs no replica: threads call it at once, and share the tree.",
    "h": "the tree is the checkpoint: `torch.save(params, file)`, `torch.load(file, weights_only=True)`.",
    "i": "called in each step, torch 2.4's needs `broadcast_buffers=False`; 2.13's does not.",
}
MANY = ["DDP", "FSDP2, `fully_shard`"]


def table():
    """As it stands in docs/training.md."""
    rows = [["", *WAYS], ["---"] * (1 + len(WAYS))]
    for name, thing in THINGS.items():
        cells = (thing.instead.get(way) for way in WAYS)
        rows.append(
            [name, *("yes" if letter is None else "no, e" if letter == "e" else f"yes, {letter}" for letter in cells)]
        )
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", *(f"- {letter}: {note}" for letter, note in NOTES.items())])


def main():
    dist.init_process_group("gloo")
    for thing in MANY:
        for way in WAYS:
            THINGS[thing].cell(way)
    print(f"process {dist.get_rank()} of {dist.get_world_size()}: the same gradients")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
