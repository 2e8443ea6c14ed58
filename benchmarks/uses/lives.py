"""Uses of a network that lives on: its state kept, copied, saved, exported; and one's own neuron as a kernel."""

import copy
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from check import autograd, Elsewhere, first_line, Inapplicable, loss, Missing, same, stacked, Wrong
from torch import Tensor
from torch.func import grad, vmap
from way import alif, data, filled, loop, tensors, Way


def pure(module: Any) -> None:
    xs, rates = data()
    step, params, state, expected = _pure(module, xs, rates)
    same(grad(lambda p: loss(_rollout(step, state))(p, xs, rates))(params), expected, "the gradient")
    step, params, state, _ = _pure(module, xs[:, :1], rates[:1])
    each = [
        autograd(lambda p: loss(_rollout(step, state))(p, xs[:, b : b + 1], rates[b : b + 1]), params)  # noqa: B023
        for b in range(len(rates))
    ]
    alone = lambda p, x, r: loss(_rollout(step, state))(p, x[:, None], r[None])
    same(vmap(grad(alone), (None, 1, 0))(params, xs, rates), stacked(each), "a sample's gradient")


def pure_under_autograd(module: Any) -> str:
    xs, rates = data()
    step, params, state, expected = _pure(module, xs, rates)
    got = autograd(lambda p: loss(_rollout(step, state))(p, xs, rates), params)
    same(got, expected, "the gradient")
    return "a pure step for plain autograd; not for torch.func"


def _rollout(step: Any, state: Any) -> Any:
    return lambda params, xs: loop(step, params, state, xs)[0]


def _pure(module: Any, xs: Any, rates: Any) -> Any:
    """The module as a pure step, checked against the module itself: spikes, and that it is left as it was."""
    net, itself = module.build(), module.build()
    itself.load_state_dict(net.state_dict())
    step, params, state = module.pure(net, xs[0])
    params = {name: p.detach().clone() for name, p in params.items()}
    spikes = torch.stack([module.call(itself, x) for x in xs])
    for _ in range(2):
        same(loop(step, params, state, xs)[0], spikes.detach(), "a step's spikes")
    if rates is None:
        return step, params, state
    names = dict(itself.named_parameters())
    leaves = [names[name] for name in params]
    grads = torch.autograd.grad(((spikes.mean(0) - rates) ** 2).mean(), leaves, allow_unused=True)
    return step, params, state, [torch.zeros_like(p) if g is None else g for p, g in zip(leaves, grads)]


def copied(module: Any) -> None:
    xs, _ = data()
    net = module.build()
    for x in xs[:3]:
        module.call(net, x)
    twin = copy.deepcopy(net)
    mine = torch.stack([module.call(net, x) for x in xs[3:]]).detach()
    same(torch.stack([module.call(twin, x) for x in xs[3:]]), mine, "the copy's future")


def state_after_vmap(module: Any) -> str:
    """A step under vmap, over samples or over a population. Then there is an error, or the next steps go on from a state that was."""
    xs, _ = data()
    over = {"samples": (xs[4], lambda net, x: module.call(net, x[None])), "a population": (xs[:3], module.call)}
    return "; ".join(f"over {what}: {_after_vmap(module, xs, *how)}" for what, how in over.items())


def _after_vmap(module: Any, xs: Tensor, batched: Tensor, call: Any) -> str:
    net, expected = _in_the_middle(module, xs)
    refused = None
    with torch.no_grad():
        try:
            vmap(lambda x: call(net, x))(batched)
        except Exception as error:
            refused = error
        try:
            got = torch.stack([module.call(net, x) for x in xs[5:]])
        except Exception as error:
            return f"the next step is refused ({first_line(error)})"
    if refused is not None and torch.equal(got, expected["without xs[4]"]):
        return f"vmap is refused, and the state is as it was ({first_line(refused)})"
    if refused is None and torch.equal(got, expected["with xs[4]"]):
        return "the state is that after the step"
    raise Wrong("after a step under vmap, the next one starts from another state, without an error")


def _in_the_middle(module: Any, xs: Tensor) -> Any:
    """A module after four steps, and its spikes from xs[5] on, after xs[4] and without it. From rest they would be others."""
    net, expected = module.build(), {}
    for what, before in {"with xs[4]": xs[:5], "without xs[4]": xs[:4], "at rest": xs[:0]}.items():
        twin = module.build()
        twin.load_state_dict(net.state_dict())
        with torch.no_grad():
            [module.call(twin, x) for x in before]
            expected[what] = torch.stack([module.call(twin, x) for x in xs[5:]])
    assert not any(torch.equal(expected["at rest"], expected[what]) for what in list(expected)[:2]), (
        "nothing to compare"
    )
    with torch.no_grad():
        [module.call(net, x) for x in xs[:4]]
    return net, expected


# --- saving and exporting ---------------------------------------------------------------------------------------------


def resume(way: Way) -> None:
    _resume(way, lambda params, state: (params, state))


def resume_from_leaves(way: Way) -> str:
    _resume(way, lambda params, state: (tensors(params), tensors(state)))
    return "the list of its tensors is saved"


def _resume(way: Way, packed: Any) -> None:
    xs, rates = data()
    _, state = way.over_time(way.params, way.init(way.params, xs[0]), xs[:4])
    here = rest(way, way.params, state, xs[4:], rates)
    at_rest = rest(way, way.params, way.init(way.params, xs[0]), xs[4:], rates)
    assert not torch.equal(torch.cat([*map(torch.flatten, here)]), torch.cat([*map(torch.flatten, at_rest)])), (
        "nothing to compare"
    )
    there = elsewhere("rest", way, (packed(way.params, state), xs[4:], rates))
    if not all(torch.equal(a, b) for a, b in zip(here, there)):
        raise Wrong("the other process goes on with other numbers")


def rest(way: Way, params: Any, state: Any, xs: Tensor, rates: Tensor) -> list[Tensor]:
    """The spikes from here on, and their gradient."""
    run = lambda p, xs: way.over_time(p, state, xs)[0]
    return [run(params, xs), *autograd(lambda p: loss(run)(p, xs, rates), params)]


def hidden_state(module: Any) -> str:
    if not module.keeps_state:
        raise Inapplicable("its modules keep no state: the state is a value, as in the row above")
    return _hidden_state(module, module.saving)


def hidden_state_by_hand(module: Any) -> str:
    return _hidden_state(module, module.by_hand)


def _hidden_state(module: Any, saving: dict[str, Any]) -> str:
    xs, _ = data()
    for name, (save, _) in saving.items():
        net, expected = _in_the_middle(module, xs)
        try:
            there = elsewhere(name, module, (save(net), xs[5:]))
        except Elsewhere as error:
            failed = error
            continue
        if torch.equal(expected["without xs[4]"], there):
            return f"with {name}"
        failed = Wrong("the other process goes on from another state, without an error")
    raise failed if saving else Missing("nothing else to try")


def elsewhere(what: str, subject: Any, saved: Any) -> Any:
    """Saved, and gone on with in another process, where the network is built anew with other weights."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "saved.pt"
        torch.save(saved, path)
        command = [sys.executable, "-W", "ignore", __file__, what, subject.library, subject.name, str(path)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise Elsewhere(**json.loads(done.stdout.splitlines()[-1]))
        return torch.load(path, weights_only=True)


def go_on(what: str, library: Any, name: str, path: str) -> None:
    torch.manual_seed(1)
    saved = torch.load(path, weights_only=True)
    if what != "rest":
        module = next(m for m in library.modules() if m.name == name)
        (_, load), net = (module.saving | module.by_hand)[what], module.build()
        load(net, saved[0])
        with torch.no_grad():
            return torch.save(torch.stack([module.call(net, x) for x in saved[1]]), path)
    way = next(w for w in library.ways() if w.name == name)
    (params, state), xs, rates = saved
    if isinstance(params, list):
        params, state = filled(way.params, params), filled(way.init(way.params, xs[0]), state)
    torch.save(rest(way, params, state, xs, rates), path)


class Step(torch.nn.Module):
    def __init__(self, step: Any) -> None:
        super().__init__()
        self.step = step

    def forward(self, params, state, x):
        return self.step(params, state, x)


def exported(way: Way) -> str | None:
    xs, _ = data()
    state = way.init(way.params, xs[0])
    program = torch.export.export(Step(way.step), (way.params, state, xs[0]))
    spikes = _rollout(program.module(), state)(way.params, xs)
    same(spikes, way.by_hand(way.params, xs), "the program's spikes")
    return _foreign(program)


def exported_module(way: Way) -> str | None:
    """Parameters inside the program, state in and out."""
    xs, _ = data()
    state = way.init(way.params, xs[0])
    program = torch.export.export(Step(lambda _, state, x: way.step(way.params, state, x)), ((), state, xs[0]))
    same(_rollout(program.module(), state)((), xs), way.by_hand(way.params, xs), "the program's spikes")
    return " ".join(filter(None, ["the parameters are constants of the program;", _foreign(program)]))


def _foreign(program: Any) -> str | None:
    names = {str(n.target) for n in program.graph.nodes if n.op == "call_function"}
    foreign = sorted(n for n in names if not n.startswith(("aten", "<built-in", "wrap_with", "prims")))
    return f"its graph needs {', '.join(foreign)}" if foreign else None


# --- one's own neuron, fused ------------------------------------------------------------------------------------------


def fused(own: Any) -> None:
    _fused(own.run)


def fused_by_compile(own: Any) -> str:
    compiled = torch.compile(own.run, fullgraph=True, dynamic=False)
    start = time.perf_counter()
    _fused(compiled, lengths=(8, 16))
    return f"torch.compile unrolls the loop, a program for each length: {time.perf_counter() - start:.0f} s for 8 and 16 steps"


def _fused(run: Any, lengths: tuple[int, int] = (8, 64)) -> None:
    """As many operations for a long sequence as for a short one, forward and backward, and the numbers of the loop by hand."""
    counts = []
    for T in lengths:
        xs, cotangent = (torch.rand(T, 4, 16) * 1.5).requires_grad_(), torch.randn(T, 4, 16)
        both = lambda run: (spikes := run(xs), torch.autograd.grad(spikes, xs, cotangent)[0])  # noqa: B023
        same(both(run), both(alif_by_hand), "one's own neuron")
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            both(run)
        counts.append(sum(event.count for event in profile.key_averages() if event.key.startswith("aten::")))
    if counts[1] > 1.2 * counts[0]:
        raise Wrong(f"{counts[0]} operations for {lengths[0]} steps, {counts[1]} for {lengths[1]}: a loop")


def alif_by_hand(xs: Tensor) -> Tensor:
    mem, adapt, outs = torch.zeros_like(xs[0]), torch.zeros_like(xs[0]), []
    for x in xs.unbind(0):
        spk, mem, adapt = alif(x, mem, adapt)
        outs.append(spk)
    return torch.stack(outs)


if __name__ == "__main__":
    import importlib

    from tried import told

    try:
        go_on(sys.argv[1], importlib.import_module(f"of_{sys.argv[2]}"), *sys.argv[3:])
    except Exception as error:
        print(json.dumps(told(error)))
        sys.exit(1)
