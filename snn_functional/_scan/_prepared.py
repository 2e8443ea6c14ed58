"""What is known of a step at given shapes: its plan, and that the plan does what the step does. Learned once, then looked up."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import kernels
from .._functorch import intercepted, is_compiling, outside, transforms
from .._tree import tree_flatten, tree_leaves, tree_unflatten
from ..kernels import Plan, Unsupported
from ._door import admit
from ._loop import loop, Step
from ._primitive import Call, Scan
from ._steps import chosen, known


class Prepared(NamedTuple):
    """A step at given shapes, past the door. `forms`: the shapes of one step's results; `smaller`: are some less than all lanes?"""

    plan: Plan
    T: int
    device: torch.device
    lanes: torch.Size
    state: list[tuple[torch.Size, torch.dtype]]
    forms: list[torch.Size]
    trees: tuple[Any, Any]
    smaller: bool

    def filled(self, ps: list[Tensor], ss: list[Tensor], xs: list[Tensor]) -> list[Tensor]:
        """The leaves of a scan, the state as it is after the first step's broadcast, everything over all lanes."""
        lanes = self.lanes
        if self.device.type != "cpu":  # numbers come along
            ps, ss = ([leaf.to(self.device, non_blocking=True) for leaf in part] for part in (ps, ss))
        leaves = [*ps]
        for s, (shape, dtype) in zip(ss, self.state):
            s = s if s.shape == shape and s.dtype == dtype else s.to(dtype).expand(shape)
            leaves.append(s if shape == lanes else s.expand(lanes))
        leaves += [_over(x, lanes) for x in xs]
        return leaves

    def unfilled(self, results: Sequence[Tensor]) -> Sequence[Tensor]:
        """Outputs and last states, from all lanes back to the shapes that the loop gives where less was needed."""
        if not self.smaller:
            return results
        return [_shrink(x, form, int(i < self.plan.outputs)) for i, (x, form) in enumerate(zip(results, self.forms))]


def prepare(step: Step, params: Any, state: Any, inputs: Any, length: int | None) -> tuple[Prepared, list[Tensor]]:
    """What is known of a step at these shapes, and its leaves, broadcast to lanes. The first time, they pass the door."""
    if is_compiling():
        raise Unsupported("torch.compile is tracing")
    if intercepted():
        raise Unsupported("a dispatch mode is active, which sees operations one by one")
    active = transforms()
    if "Grad" in active and "".join(active).rpartition("Grad")[0].count("Jvp") > 1:
        # torch turns forward mode off inside a Function's jvp, and with it the outer one of the two.
        raise Unsupported("two forward-mode transforms are around a reverse one, which kernels cannot follow")
    if not callable(step):
        admit(step, params, state, inputs, length)
    what = known(step)
    ps, p_tree = tree_flatten((params, what.captured) if what.captured else (params, ()))
    ss, s_tree = tree_flatten(state)
    xs, x_tree = tree_flatten(inputs)
    now = [chosen(form, tree) for form, tree in ((p_tree, params), (s_tree, state), (x_tree, inputs))]
    name = what.key, p_tree, s_tree, x_tree, torch.get_default_dtype(), *now
    try:
        key = name, length, *((leaf.shape, leaf.dtype, leaf.device, leaf.layout) for leaf in (*ps, *ss, *xs))
    except AttributeError:
        admit(step, params, state, inputs, length)
        raise Unsupported("a leaf of params or state is not a tensor") from None
    prepared = _prepared.get(key)
    if prepared is None:
        length = admit(step, params, state, inputs, length)
        if len(_prepared) > 10_000:
            _prepared.clear()
        # What is known at these shapes is known at any length.
        forms = ((x.shape, x.dtype, x.device, x.layout) for x in (*ps, *ss))
        short = name, min(length, 2), "any length", *forms, *((x.shape[1:], x.dtype, x.device, x.layout) for x in xs)
        if short not in _prepared:
            _prepared[short] = _prepare(name, what, ps, ss, xs, length)
        prepared = _prepared[key] = _prepared[short]._replace(T=length)
    return prepared, prepared.filled(ps, ss, xs)


def _prepare(name: Any, what: Any, ps: list[Tensor], ss: list[Tensor], xs: list[Tensor], length: int) -> Prepared:
    device = _place([*ps, *ss, *xs])
    kernels.ready(device.type)
    with outside():
        plan, out_tree = _plan(name, what, ps, ss, xs)
        given, results = _rehearsed(name, what, ps, ss, xs, length)
        after = [last[0] for last in results[plan.outputs :]]
        if any(s.shape != new.shape or s.dtype != new.dtype for s, new in zip(ss, after)):
            # The first step may broadcast the state, and gives a 0-d one its dtype.
            for s, new in zip(ss, after):
                if torch.promote_types(s.dtype, new.dtype) != new.dtype:
                    raise Unsupported(f"it narrows its state from {s.dtype} to {new.dtype}")
            plan, out_tree = _plan(name, what, ps, after, xs)
        lanes = torch.broadcast_shapes(*(leaf.shape for leaf in (*ps, *after)), *(x.shape[1:] for x in xs))
        forms = [result.shape[1:] for result in results]
        for form in forms:
            if len(form) > len(lanes) or any(a not in (1, n) for a, n in zip(form[::-1], lanes[::-1])):
                raise Unsupported(f"it returns shape {list(form)}, of arguments that together have {list(lanes)}")
        state = [(new.shape, new.dtype) for new in after]
        smaller = any(form != lanes for form in forms)
        prepared = Prepared(plan, length, device, lanes, state, forms, (out_tree, name[2]), smaller)
        _same_numbers(prepared, given, results)
    return prepared


def _same_numbers(prepared: Prepared, given: list[list[Tensor]], results: list[Tensor]) -> None:
    """What a step does may depend on more than can be read off two neurons: its shapes, or numbers taken out of torch."""
    plan, steps = prepared.plan, min(prepared.T, 2)
    floats = [x.dtype for part in (*given, results) for x in part if x.is_floating_point()]
    eps = max((torch.finfo(dtype).eps for dtype in floats), default=0.0)
    found = Scan.forward(Call(plan, steps, False, 0), *prepared.filled(*given))
    for i, (mine, right) in enumerate(zip(prepared.unfilled(found), results)):
        right = right if i < plan.outputs else right[0]
        bound = min(1e4 * eps, 0.05) if right.is_floating_point() else 0
        apart = ~torch.isclose(mine.to(torch.float64), right.to(torch.float64), rtol=bound, atol=bound, equal_nan=True)
        if int(apart.sum()) > apart.numel() // 1000:  # a rounding may tip a spike, but seldom does
            raise Unsupported(
                "its first steps, as read, are not the loop's: it depends on shapes, or on more than its arguments"
            )


_prepared: dict[Any, Prepared] = {}


def _place(leaves: list[Tensor]) -> torch.device:
    """The one device of all leaves; numbers on the CPU go anywhere."""
    if any(leaf.layout != torch.strided for leaf in leaves):
        raise Unsupported("a leaf is sparse")
    devices = {leaf.device for leaf in leaves if leaf.dim() or leaf.device.type != "cpu"}
    devices = devices or {leaf.device for leaf in leaves}
    if len(devices) != 1 or next(iter(devices)).type not in kernels.BACKENDS:
        where = " and ".join(sorted({device.type for device in devices}))
        raise Unsupported(f"there is no kernel for {where or 'a step without tensors'}")
    return devices.pop()


_plans: dict[Any, tuple[Plan, Any] | str] = {}


def _plan(name: Any, what: Any, ps: list[Tensor], ss: list[Tensor], xs: list[Tensor]) -> tuple[Plan, Any]:
    forms = tuple((leaf.dtype, leaf.dim() == 0) for leaf in (*ps, *ss)), tuple((x.dtype, x.dim() == 1) for x in xs)
    if (name, forms) not in _plans:
        with kernels.lock:
            try:
                _plans[name, forms] = _traced(name, what, ps, ss, xs)
            except Unsupported as error:
                _plans[name, forms] = str(error)
    entry = _plans[name, forms]
    if isinstance(entry, str):
        raise Unsupported(entry)
    return entry


def _traced(name: Any, what: Any, ps: list[Tensor], ss: list[Tensor], xs: list[Tensor]) -> tuple[Plan, Any]:
    _, p_tree, s_tree, x_tree, *_ = name
    out_tree: list[Any] = []

    def function(*leaves: Tensor) -> tuple[Tensor, ...]:
        at, then = len(ps), len(ps) + len(ss)
        (params, captured), state = tree_unflatten(p_tree, leaves[:at]), tree_unflatten(s_tree, leaves[at:then])
        returned = what.rebuilt(captured)(params, state, tree_unflatten(x_tree, leaves[then:]))
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise Unsupported("it does not return (output, state)")
        (outputs, tree), (states, same) = map(tree_flatten, returned)
        if same != s_tree:
            raise Unsupported(f"it changes the structure of its state from {s_tree} to {same}")
        if not all(isinstance(leaf, Tensor) for leaf in (*outputs, *states)):
            raise Unsupported("it returns something that is not a tensor")
        out_tree[:] = [tree]
        return (*outputs, *states)

    like = lambda leaf, scalar: torch.empty(() if scalar else (1,), dtype=leaf.dtype, device="cpu")
    examples = [like(leaf, leaf.dim() == 0) for leaf in (*ps, *ss)] + [like(x, x.dim() == 1) for x in xs]
    plan = Plan(function, tuple(examples), (len(ps), len(ss), len(xs)))
    return plan, out_tree[0]


def _rehearsed(
    name: Any, what: Any, ps: list[Tensor], ss: list[Tensor], xs: list[Tensor], length: int
) -> tuple[list[list[Tensor]], list[Tensor]]:
    """Two steps of the loop at numbers of these shapes: the numbers, what came of them (a last state as its one step), its errors."""
    steps = min(length, 2)
    generator = torch.Generator("cpu").manual_seed(0)

    def some(leaf: Tensor, shape: Any, low: float) -> Tensor:
        numbers = torch.rand(shape, generator=generator, dtype=torch.float64, device="cpu") * (1 - low) + low
        return (numbers if leaf.is_floating_point() else numbers > 0.5).to(leaf.device, leaf.dtype)

    given = [
        [some(p, p.shape, 0.05) for p in ps],
        [some(s, s.shape, -1) for s in ss],
        [some(x, (steps, *x.shape[1:]), -1) for x in xs],
    ]
    _, p_tree, s_tree, x_tree, *_ = name
    params, captured = tree_unflatten(p_tree, given[0])
    state, inputs = tree_unflatten(s_tree, given[1]), tree_unflatten(x_tree, given[2])
    with torch.no_grad():
        outputs, last = loop(what.rebuilt(captured), params, state, inputs, steps, False)
    return given, [*tree_leaves(outputs), *(x[None] for x in tree_leaves(last))]


def _over(x: Tensor, lanes: torch.Size) -> Tensor:
    if x.shape[1:] == lanes:
        return x
    return x.reshape(len(x), *[1] * (len(lanes) - x.dim() + 1), *x.shape[1:]).expand(len(x), *lanes)


def _shrink(x: Tensor, form: torch.Size, time: int) -> Tensor:
    """From all lanes back to the shape that the loop gives where less was needed."""
    if x.shape[time:] == form:
        return x
    x = x[(slice(None),) * time + (0,) * (x.dim() - time - len(form))]
    for axis, n in enumerate(form, time):
        if x.shape[axis] != n:
            x = x.narrow(axis, 0, 1)
    return x
