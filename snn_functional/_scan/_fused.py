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
from .._functorch import applied, intercepted, is_compiling, outside, transforms, wrapping
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
    name = what.key, p_tree, s_tree, x_tree, torch.get_default_dtype()
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
        prepared = _prepared[key] = _prepare(name, what, ps, ss, xs, length)
    return prepared, _filled(prepared, ps, ss, xs)


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
    found = _Scan.forward(Call(plan, steps, False, 0), *_filled(prepared, *given))[: plan.outputs + plan.counts[1]]
    for i, (mine, right) in enumerate(zip(found, results)):
        mine = _shrink(mine, prepared.forms[i], int(i < plan.outputs))
        right = right if i < plan.outputs else right[0]
        bound = min(1e4 * eps, 0.05) if right.is_floating_point() else 0
        apart = ~torch.isclose(mine.to(torch.float64), right.to(torch.float64), rtol=bound, atol=bound, equal_nan=True)
        if int(apart.sum()) > apart.numel() // 1000:  # a rounding may tip a spike, but seldom does
            raise Unsupported(
                "its first steps, as read, are not the loop's: it depends on shapes, or on more than its arguments"
            )


def _filled(prepared: Prepared, ps: list[Tensor], ss: list[Tensor], xs: list[Tensor]) -> list[Tensor]:
    """The leaves of a scan, the state as it is after the first step's broadcast, everything over all lanes."""
    lanes = prepared.lanes
    if prepared.device.type != "cpu":  # numbers come along
        ps, ss = ([leaf.to(prepared.device, non_blocking=True) for leaf in part] for part in (ps, ss))
    leaves = [*ps]
    for s, (shape, dtype) in zip(ss, prepared.state):
        s = s if s.shape == shape and s.dtype == dtype else s.to(dtype).expand(shape)
        leaves.append(s if shape == lanes else s.expand(lanes))
    leaves += [_over(x, lanes) for x in xs]
    return leaves


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
    _, p_tree, s_tree, x_tree, _ = name
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


def _rehearsed(
    name: Any, what: Any, ps: list[Tensor], ss: list[Tensor], xs: list[Tensor], length: int
) -> tuple[list[list[Tensor]], list[Tensor]]:
    """Two steps of the loop at numbers of these shapes: the numbers, what came of them (a last state as its one step), its errors."""
    steps = min(length, 2)
    generator = torch.Generator().manual_seed(0)

    def some(leaf: Tensor, shape: Any, low: float) -> Tensor:
        numbers = torch.rand(shape, generator=generator, dtype=torch.float64) * (1 - low) + low
        return (numbers if leaf.is_floating_point() else numbers > 0.5).to(leaf.device, leaf.dtype)

    given = [
        [some(p, p.shape, 0.05) for p in ps],
        [some(s, s.shape, -1) for s in ss],
        [some(x, (steps, *x.shape[1:]), -1) for x in xs],
    ]
    _, p_tree, s_tree, x_tree, _ = name
    params, captured = tree_unflatten(p_tree, given[0])
    state, inputs = tree_unflatten(s_tree, given[1]), tree_unflatten(x_tree, given[2])
    with torch.no_grad():
        outputs, last = loop(what.rebuilt(captured), params, state, inputs, steps, False)
    return given, [*tree_leaves(outputs), *(x[None] for x in tree_leaves(last))]


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
        plan = ctx.call.plan
        leaves = ctx.saved_tensors[: len(plan.leaves)]
        moved = iter(_tangent(ctx.call, leaves, tangents[1:])[1])
        out = [next(moved) if dtype.is_floating_point else None for dtype in plan.types]
        return (*out, *[None] * (plan.counts[1] if ctx.call.every else 0))

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
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*leaves, *cotangents)
        ctx.save_for_forward(*leaves, *cotangents)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        tensors = ctx.saved_tensors

        def again(*floats: Tensor) -> tuple[Tensor, ...]:
            given = iter(floats)
            return _by_scans(ctx.call, ctx.wanted, [next(given) if x.is_floating_point() else x for x in tensors])[0]

        pair: Any = torch.func.vjp(again, *(x for x in tensors if x.is_floating_point()))
        values, pull = pair
        gradients = iter(pull(tuple(torch.zeros_like(x) if c is None else c for x, c in zip(values, cotangents))))
        out = [next(gradients) if x.is_floating_point() else None for x in tensors]
        return None, None, *out, *[None] * ctx.checkpoints

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        moves = [
            torch.zeros_like(x) if d is None and x.is_floating_point() else d
            for x, d in zip(ctx.saved_tensors, tangents[2:])
        ]
        return _by_scans(ctx.call, ctx.wanted, list(ctx.saved_tensors), moves)[1]

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


def _by_scans(
    call: Call, wanted: tuple[int, ...], tensors: list[Tensor], moves: list[Any] | None = None
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The adjoint of its leaves and cotangents, made of scans, which can be differentiated again; and its move where these move."""
    plan, T, reverse, _ = call
    forth, back = Call(plan.trajectory, T, reverse, 0), Call(plan.adjoint, T, not reverse, 0)
    lanes, _ = _lanes(plan, tensors)
    zeros = [p.new_zeros(()).expand(lanes) for p in plan.split(tensors)[0] if p.is_floating_point()]

    def arranged(tensors: list[Any], path: Any, sums: Any) -> list[Any]:
        leaves, cotangents, _ = _three(plan, tensors)
        params, _, inputs = plan.split(leaves)
        d_outputs, d_states = cotangents[: len(plan.sensitive)], cotangents[len(plan.sensitive) :]
        return [*params, *d_states, *sums, *inputs, *path, *d_outputs]

    def gradients(results: Any) -> tuple[Tensor, ...]:
        d_inputs, rest = results[: plan.adjoint.outputs], results[plan.adjoint.outputs :]
        d_states, d_params = rest[: len(plan.moving)], rest[len(plan.moving) : len(plan.moving) + len(zeros)]
        found = dict(zip([i for i, real in enumerate(plan.real) if real], (*d_params, *d_states, *d_inputs)))
        return tuple(found[i].sum_to_size(tensors[i].shape) if i < plan.counts[0] else found[i] for i in wanted)

    leaves = tensors[: len(plan.leaves)]
    count = plan.counts[1]
    if moves is None:
        path = _Scan.apply(forth, *leaves)[:count]
        return gradients(_Scan.apply(back, *arranged(tensors, path, zeros))), ()
    path, d_path = _tangent(forth, leaves, moves[: len(leaves)])
    # Of a state that is no number there is no move.
    d_states = iter(d_path)
    d_path = [next(d_states) if s in plan.moving else None for s in range(count)]
    given = arranged(tensors, path[:count], zeros)
    results, moved = _tangent(back, given, arranged(moves, d_path, [None] * len(zeros)))
    return gradients(results), gradients(moved)


def _tangent(call: Call, leaves: Any, moves: Any) -> tuple[list[Tensor], list[Tensor]]:
    """The results of a scan, and the moves of its floating ones, where its floating leaves move so (None: not at all)."""
    plan, T, reverse, _ = call
    given: list[Tensor] = []
    for part, d_part in zip(plan.split(leaves), plan.split(moves)):
        given += part
        given += [torch.zeros_like(p) if d is None else d for p, d in zip(part, d_part) if p.is_floating_point()]
    tangent, states = plan.tangent, plan.counts[1]
    results = _Scan.apply(Call(tangent, T, reverse, 0), *given)
    values = [*results[: plan.outputs], *results[tangent.outputs : tangent.outputs + states]]
    return values, [*results[plan.outputs : tangent.outputs], *results[tangent.outputs + states :]]


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
    if states:
        rank = states[0].dim() - (s_dims[0] is not None)
    elif inputs:
        rank = inputs[0].dim() - 1 - (x_dims[0] is not None)
    else:
        rank = max((p.dim() - (d is not None) for p, d in zip(params, p_dims)), default=0)
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
