"""One kernel over all of time, as a primitive with rules: what makes `scan` closed under `torch.func` and fast.

    jvp     the scan of the step's tangent
    vjp     one kernel, which recomputes the states from sparse checkpoints; differentiated again, it is
            a scan that gives the trajectory, then a reversed scan of the step's adjoint
    vmap    the same scan, the mapped axis folded in front of the neurons

Each rule is written with the primitive itself, so every nesting of them stays fused. Leaves are flat here: params in their own
shapes, states `[*lanes]`, inputs `[T, *lanes]`, where `lanes` is the common shape of one time step; what is broadcast is expanded,
which costs nothing, because kernels read through strides.
"""

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import kernels
from .._functorch import applied, intercepted, is_compiling, outside, wrapping
from .._tree import tree_flatten, tree_leaves, tree_unflatten
from ..kernels import Plan, Unsupported
from ._door import admit
from ._loop import loop, Step
from ._steps import known


class Call(NamedTuple):
    """What a scan runs beside its leaves. `every`: steps from one checkpoint of the state to the next; 0 for none."""

    plan: Plan
    T: int
    reverse: bool
    every: int


def fused(step: Step, params: Any, state: Any, inputs: Any, length: int | None, reverse: bool) -> tuple[Any, Any]:
    """What `loop` returns, in one kernel. Raises Unsupported where the step, or the place, has none."""
    prepared, leaves = prepare(step, params, state, inputs, length)
    plan, outputs, state_tree = prepared.plan, prepared.plan.outputs, prepared.trees[1]
    done = wrapping(leaves)
    # A step whose derivative has no kernel is refused before it runs.
    every = _every(prepared.T, plan) if "tracked" in done and plan.pullback else 0
    if "dual" in done:
        plan.tangent  # noqa: B018
    call = Call(plan, prepared.T, reverse, every)
    run = _Scan.forward if not done else applied(_Scan) if done == {"tracked"} else _Scan.apply
    results = run(call, *leaves)
    if prepared.smaller:
        forms = zip(results[: outputs + plan.counts[1]], prepared.forms)
        results = [_shrink(x, form, int(i < outputs)) for i, (x, form) in enumerate(forms)]
    ys, last = results[:outputs], results[outputs : outputs + plan.counts[1]]
    return tree_unflatten(prepared.trees[0], ys), tree_unflatten(state_tree, last)


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


def prepare(step: Step, params: Any, state: Any, inputs: Any, length: int | None) -> tuple[Prepared, list[Tensor]]:
    """What is known of a step at these shapes, and its leaves, broadcast to lanes. The first time, they pass the door."""
    if is_compiling():
        raise Unsupported("torch.compile is tracing")
    if intercepted():
        raise Unsupported("a dispatch mode is active, which sees operations one by one")
    if not callable(step):
        admit(step, params, state, inputs, length)
    what = known(step)
    ps, p_tree = tree_flatten((params, what.captured) if what.captured else (params, ()))
    ss, s_tree = tree_flatten(state)
    xs, x_tree = tree_flatten(inputs)
    name = what.key, p_tree, s_tree, x_tree
    try:
        key = name, length, *((leaf.shape, leaf.dtype, leaf.device) for leaf in (*ps, *ss, *xs))
    except AttributeError:
        admit(step, params, state, inputs, length)
        raise Unsupported("a leaf of params or state is not a tensor") from None
    prepared = _prepared.get(key)
    if prepared is None:
        length = admit(step, params, state, inputs, length)
        if len(_prepared) > 10_000:
            _prepared.clear()
        prepared = _prepared[key] = _prepare(name, what, ps, ss, xs, length)
    lanes = prepared.lanes
    if prepared.device.type != "cpu":  # numbers come along
        ps, ss = ([leaf.to(prepared.device, non_blocking=True) for leaf in part] for part in (ps, ss))
    leaves = [*ps]
    for s, (shape, dtype) in zip(ss, prepared.state):
        s = s if s.shape == shape else s.to(dtype).expand(shape)
        leaves.append(s if shape == lanes else s.expand(lanes))
    leaves += [_over(x, lanes) for x in xs]
    return prepared, leaves


def _prepare(name: Any, what: Any, ps: list[Tensor], ss: list[Tensor], xs: list[Tensor], length: int) -> Prepared:
    device = _place([*ps, *ss, *xs])
    kernels.ready(device.type)
    plan, out_tree = _plan(name, what, ps, ss, xs)
    results = _rehearsed(name, what, ps, ss, xs, length)
    after = results[plan.outputs :]
    if any(s.shape != new.shape or s.dtype != new.dtype for s, new in zip(ss, after)):
        # The first step may broadcast the state, and gives a 0-d one its dtype.
        for s, new in zip(ss, after):
            if torch.promote_types(s.dtype, new.dtype) != new.dtype:
                raise Unsupported(f"it narrows its state from {s.dtype} to {new.dtype}")
        plan, out_tree = _plan(name, what, ps, after, xs)
    lanes = torch.broadcast_shapes(*(leaf.shape for leaf in (*ps, *after)), *(x.shape[1:] for x in xs))
    forms = [result.shape for result in results]
    state = [(new.shape, new.dtype) for new in after]
    return Prepared(
        plan, length, device, lanes, state, forms, (out_tree, name[2]), any(form != lanes for form in forms)
    )


_prepared: dict[Any, Prepared] = {}


def _place(leaves: list[Tensor]) -> torch.device:
    """The one device of all leaves; numbers on the CPU go anywhere."""
    devices = {leaf.device for leaf in leaves if leaf.dim() or leaf.device.type != "cpu"}
    devices = devices or {leaf.device for leaf in leaves}
    if len(devices) != 1 or next(iter(devices)).type not in kernels.BACKENDS:
        where = " and ".join(sorted({device.type for device in devices}))
        raise Unsupported(f"there is no kernel for {where or 'a step without tensors'}")
    return devices.pop()


_plans: dict[Any, tuple[Plan, Any] | str] = {}
_rehearsals: dict[Any, list[Tensor]] = {}


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
    _, p_tree, s_tree, x_tree = name
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

    like = lambda leaf, scalar: torch.empty(() if scalar else (1,), dtype=leaf.dtype)
    examples = [like(leaf, leaf.dim() == 0) for leaf in (*ps, *ss)] + [like(x, x.dim() == 1) for x in xs]
    plan = Plan(function, tuple(examples), (len(ps), len(ss), len(xs)))
    return plan, out_tree[0]


def _rehearsed(name: Any, what: Any, ps: list[Tensor], ss: list[Tensor], xs: list[Tensor], length: int) -> list[Tensor]:
    """What two steps of the loop give at leaves of these shapes, full of zeros: the forms of its results, and its errors."""
    steps = min(length, 2)
    forms = [(leaf.shape, leaf.dtype, leaf.device) for leaf in (*ps, *ss)]
    key = name, steps, *forms, *((x.shape[1:], x.dtype, x.device) for x in xs)
    if key not in _rehearsals:
        _, p_tree, s_tree, x_tree = name
        zeros = lambda leaf, shape: _zero(leaf.dtype, leaf.device).expand(shape)
        params, captured = tree_unflatten(p_tree, [zeros(p, p.shape) for p in ps])
        state = tree_unflatten(s_tree, [zeros(s, s.shape) for s in ss])
        inputs = tree_unflatten(x_tree, [zeros(x, (steps, *x.shape[1:])) for x in xs])
        with outside(), torch.no_grad():
            outputs, last = loop(what.rebuilt(captured), params, state, inputs, steps, False)
        results = [out[0] for out in tree_leaves(outputs)] + tree_leaves(last)
        _rehearsals[key] = [zeros(x, x.shape) for x in results]
    return _rehearsals[key]


def _over(x: Tensor, lanes: torch.Size) -> Tensor:
    if x.shape[1:] == lanes:
        return x
    return x.reshape(len(x), *[1] * (len(lanes) - x.dim() + 1), *x.shape[1:]).expand(len(x), *lanes)


class _Scan(torch.autograd.Function):
    """`(call, *leaves) -> (*outputs, *last state, *checkpoints)`"""

    @staticmethod
    def forward(call: Call, *leaves: Tensor) -> tuple[Tensor, ...]:
        plan, T, reverse, every = call
        lanes, uniform = _lanes(plan, leaves)
        if not lanes.numel():
            return tuple(_nothing(plan, leaves, lanes, T, every))
        ys, last, checkpoints = plan.forward(uniform, leaves[0].device.type)(leaves, lanes, T, reverse, every)
        return (*ys, *last, *checkpoints)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.call, *leaves = inputs
        plan = ctx.call.plan
        ctx.results = plan.outputs + plan.counts[1]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*leaves, *output[ctx.results :])
        ctx.save_for_forward(*leaves)
        fixed = [x for x in output[: ctx.results] if not x.is_floating_point()]
        ctx.mark_non_differentiable(*fixed, *output[ctx.results :])

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        plan, count = ctx.call.plan, len(ctx.call.plan.leaves)
        saved, needed = ctx.saved_tensors, ctx.needs_input_grad[1:]
        leaves, checkpoints = saved[:count], saved[count:]
        wanted = tuple(i for i in range(count) if plan.real[i] and needed[i])
        if not wanted or all(c is None for c in cotangents[: ctx.results]):
            return (None,) * (1 + count)
        tensors = *leaves, *_cotangents(plan, leaves, cotangents, ctx.call.T), *checkpoints
        adjoint = _Adjoint.apply if wrapping(tensors) else _Adjoint.forward
        found = dict(zip(wanted, adjoint(ctx.call, wanted, *tensors)))
        return None, *(found.get(i) for i in range(count))

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        plan, T, reverse, every = ctx.call
        leaves, tangents = ctx.saved_tensors[: len(plan.leaves)], tangents[1:]
        given: list[Tensor] = []
        for part, moves in zip(plan.split(leaves), plan.split(tangents)):
            given += part
            given += [torch.zeros_like(p) if d is None else d for p, d in zip(part, moves) if p.is_floating_point()]
        tangent = plan.tangent
        results = _Scan.apply(Call(tangent, T, reverse, 0), *given)
        moved = iter([*results[plan.outputs : tangent.outputs], *results[tangent.outputs + plan.counts[1] :]])
        out = [next(moved) if dtype.is_floating_point else None for dtype in plan.types]
        return (*out, *[None] * (plan.counts[1] if every else 0))

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        call, *leaves = args
        plan = call.plan
        folded = _fold(plan, leaves, in_dims[1:], info.batch_size)
        results = _Scan.apply(call, *folded)
        count = plan.outputs, plan.counts[1], len(results) - plan.outputs - plan.counts[1]
        return results, (1,) * count[0] + (0,) * count[1] + (1,) * count[2]


class _Adjoint(torch.autograd.Function):
    """`(call, wanted, *leaves, *cotangents, *checkpoints) -> gradients of the wanted leaves`"""

    @staticmethod
    def forward(call: Call, wanted: tuple[int, ...], *tensors: Tensor) -> tuple[Tensor, ...]:
        plan, T, reverse, every = call
        leaves, cotangents, checkpoints = _three(plan, tensors)
        lanes, uniform = _lanes(plan, leaves)
        if not lanes.numel():
            return tuple(torch.zeros_like(leaves[i]) for i in wanted)
        kernel = plan.backward(uniform, wanted, leaves[0].device.type)
        checkpoints = [x.contiguous() for x in checkpoints]  # vmap may have expanded them
        gradients = kernel(leaves, cotangents, checkpoints, lanes, T, reverse, every or _every(T, plan))
        found = dict(zip(kernel.wanted, gradients))
        return tuple(_summed(found[i], leaves[i]) if i < plan.counts[0] else found[i] for i in wanted)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.call, ctx.wanted, *tensors = inputs
        leaves, cotangents, checkpoints = _three(ctx.call.plan, tensors)
        ctx.checkpoints = len(checkpoints)
        ctx.save_for_backward(*leaves, *cotangents)
        ctx.save_for_forward(*leaves, *cotangents)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        again, floats = _by_scans(ctx)
        gradients = iter(torch.func.vjp(again, *floats)[1](cotangents))
        out = [next(gradients) if x.is_floating_point() else None for x in ctx.saved_tensors]
        return None, None, *out, *[None] * ctx.checkpoints

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        again, floats = _by_scans(ctx)
        floats = [x.contiguous() for x in floats]  # torch makes no dual of an expanded tensor
        moves = [d for x, d in zip(ctx.saved_tensors, tangents[2:]) if x.is_floating_point()]
        moves = [torch.zeros_like(x) if d is None else d for x, d in zip(floats, moves)]
        return torch.func.jvp(again, tuple(floats), tuple(moves))[1]

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        call, wanted, *tensors = args
        plan, dims = call.plan, in_dims[2:]
        count = len(plan.leaves)
        leaves = _fold(plan, tensors[:count], dims[:count], info.batch_size, every_param=True)
        rest = [
            _lift(
                x,
                d,
                info.batch_size,
                0 if count + len(plan.sensitive) <= i < count + len(plan.sensitive) + len(plan.moving) else 1,
            )
            for i, (x, d) in enumerate(zip(tensors[count:], dims[count:]), count)
        ]
        gradients = _Adjoint.apply(call, wanted, *leaves, *rest)
        out, before = [], plan.counts[0] + plan.counts[1]
        for i, gradient in zip(wanted, gradients):
            if i < plan.counts[0]:
                shape = tensors[i].shape if dims[i] is None else tensors[i].movedim(dims[i], 0).shape[1:]
                gradient = gradient.reshape(info.batch_size, *shape)
            out.append(gradient)
        return tuple(out), tuple(1 if i >= before else 0 for i in wanted)


def _by_scans(ctx: Any) -> tuple[Any, list[Tensor]]:
    """The adjoint as a function of its floating tensors, made of scans: what is differentiated again."""
    (plan, T, reverse, _), wanted, tensors = ctx.call, ctx.wanted, ctx.saved_tensors

    def again(*floats: Tensor) -> tuple[Tensor, ...]:
        given = iter(floats)
        leaves, cotangents, _ = _three(plan, [next(given) if x.is_floating_point() else x for x in tensors])
        params, states, inputs = plan.split(leaves)
        path = _Scan.apply(Call(plan.trajectory, T, reverse, 0), *leaves)[: len(states)]
        d_outputs, d_states = cotangents[: len(plan.sensitive)], cotangents[len(plan.sensitive) :]
        lanes, _ = _lanes(plan, leaves)
        sums = [p.new_zeros(()).expand(lanes) for p in params if p.is_floating_point()]
        adjoint = plan.adjoint
        back = Call(adjoint, T, not reverse, 0)
        results = _Scan.apply(back, *params, *d_states, *sums, *inputs, *path, *d_outputs)
        d_inputs, rest = results[: adjoint.outputs], results[adjoint.outputs :]
        d_states, d_params = rest[: len(d_states)], rest[len(d_states) : len(d_states) + len(sums)]
        floats_ = [i for i, real in enumerate(plan.real) if real]
        found = dict(zip(floats_, (*d_params, *d_states, *d_inputs)))
        return tuple(found[i].sum_to_size(leaves[i].shape) if i < plan.counts[0] else found[i] for i in wanted)

    return again, [x for x in tensors if x.is_floating_point()]


def _every(T: int, plan: Plan) -> int:
    """Steps from one checkpoint to the next: 16, more where states are many. They take at most 1/8 of an input's memory."""
    return min(T, 16 * max(1, (plan.counts[1] + 1) // 2))


def _lanes(plan: Plan, leaves: Any) -> tuple[torch.Size, tuple[bool, ...]]:
    """The shape of one time step, and which params are one number for all of it."""
    params, states, inputs = plan.split(leaves)
    if states:
        shape = states[0].shape
    elif inputs:
        shape = inputs[0].shape[1:]
    else:
        shape = torch.broadcast_shapes(*(p.shape for p in params))
    return shape, tuple([p.numel() == 1 for p in params])


def _three(plan: Plan, tensors: Any) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """leaves, cotangents, checkpoints"""
    first = len(plan.leaves)
    second = first + len(plan.sensitive) + len(plan.moving)
    return list(tensors[:first]), list(tensors[first:second]), list(tensors[second:])


def _cotangents(plan: Plan, leaves: Any, cotangents: Any, T: int) -> list[Tensor]:
    """Those of floating results, a scalar zero expanded where nothing came back."""
    lanes, _ = _lanes(plan, leaves)
    out = []
    for which in (plan.sensitive, [plan.outputs + s for s in plan.moving]):
        for i in which:
            shape = (T, *lanes) if i < plan.outputs else lanes
            c = cotangents[i]
            out.append(_zero(plan.types[i], leaves[0].device).expand(shape) if c is None else c)
    return out


@functools.cache
def _zero(dtype: torch.dtype, device: torch.device) -> Tensor:
    with outside():
        return torch.zeros((), dtype=dtype, device=device)


def _summed(gradient: Tensor, leaf: Tensor) -> Tensor:
    if leaf.numel() == 1:
        return gradient.sum().to(leaf.dtype).reshape(leaf.shape)
    return gradient.sum_to_size(leaf.shape)


def _fold(plan: Plan, leaves: Any, dims: Any, size: int, every_param: bool = False) -> list[Tensor]:
    """The mapped axis in front of the neurons: axis 0 of params and states, axis 1 of inputs, ranks as they broadcast."""
    params, states, inputs = plan.split(leaves)
    p_dims, s_dims, x_dims = plan.split(dims)
    rank = (
        states[0].dim() - (s_dims[0] is not None)
        if states
        else inputs[0].dim() - 1 - (x_dims[0] is not None)
        if inputs
        else 0
    )
    out = []
    for p, d in zip(params, p_dims):
        if d is None and not every_param:
            out.append(p)
            continue
        p = p.expand(size, *p.shape) if d is None else p.movedim(d, 0)
        out.append(p.reshape(size, *[1] * (rank - p.dim() + 1), *p.shape[1:]))
    out += [_lift(s, d, size, 0) for s, d in zip(states, s_dims)]
    out += [_lift(x, d, size, 1) for x, d in zip(inputs, x_dims)]
    return out


def _lift(x: Tensor, dim: int | None, size: int, to: int) -> Tensor:
    if dim is not None:
        return x.movedim(dim, to)
    x = x.unsqueeze(to)
    return x.expand(*x.shape[:to], size, *x.shape[to + 1 :])


def _shrink(x: Tensor, form: torch.Size, time: int) -> Tensor:
    """From all lanes back to the shape that the loop gives where less was needed."""
    if x.shape[time:] == form:
        return x
    x = x[(slice(None),) * time + (0,) * (x.dim() - time - len(form))]
    for axis, n in enumerate(form, time):
        if x.shape[axis] != n:
            x = x.narrow(axis, 0, 1)
    return x


def _nothing(plan: Plan, leaves: Any, lanes: torch.Size, T: int, every: int) -> list[Tensor]:
    empty = lambda shape, dtype: torch.empty(shape, dtype=dtype, device=leaves[0].device)
    out = [empty((T, *lanes), dtype) for dtype in plan.types[: plan.outputs]]
    out += [empty(lanes, dtype) for dtype in plan.types[plan.outputs :]]
    return out + [empty((1, *lanes), dtype) for dtype in plan.types[plan.outputs :] if every]
