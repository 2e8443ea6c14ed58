"""A scan by one kernel, as a primitive with rules: what makes `scan` closed under `torch.func`.

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

from .._functorch import by_old_vmap, outside, under_old_vmap, untransformed, wrapping
from ..kernels import broadcast, Later, Plan, Unsupported


class Call(NamedTuple):
    """What a scan runs beside its leaves. `source`: the step itself, for derivatives that were not read yet; None where the plan is
    made of one already. `every`: steps from one checkpoint of the state to the next; 0 for none.
    """

    plan: Plan
    source: Later
    T: int
    reverse: bool
    every: int


def run(function: type[torch.autograd.Function], *args: Any) -> Any:
    """The primitive, with its rules where something is done to a tensor among `args`. Where nothing is, no transform that is active
    around it shall see what is done inside: it would take the kernel's memory for tensors of its own."""
    if wrapping(x for x in args if isinstance(x, Tensor)):
        return function.apply(*args)
    return bare(function, *args)


def pulled(rule: Any, cotangents: tuple[Any, ...]) -> tuple[Any, ...]:
    """`rule(*cotangents)`, what a backward gives; where torch's old vmap goes over the cotangents, which no rule sees, by the new one."""
    there = [i for i, c in enumerate(cotangents) if c is not None]
    if not under_old_vmap(cotangents[i] for i in there):
        return rule(*cotangents)
    form: list[bool] = []

    def whole(*given: Tensor) -> tuple[Tensor, ...]:
        every: list[Any] = [None] * len(cotangents)
        for i, c in zip(there, given):
            every[i] = c
        results = rule(*every)
        form[:] = [x is not None for x in results]
        return tuple(x for x in results if x is not None)

    found = iter(by_old_vmap(whole, [cotangents[i] for i in there]))
    return tuple(next(found) if real else None for real in form)


def bare(function: type[torch.autograd.Function], *args: Any) -> Any:
    """The same, where nothing is done to any of the tensors."""
    if untransformed():
        return function.forward(*args)
    with outside():
        return function.forward(*args)


class Scan(torch.autograd.Function):
    """`(call, *leaves) -> (*outputs, *last state, *checkpoints)`"""

    @staticmethod
    def forward(call: Call, *leaves: Tensor) -> tuple[Tensor, ...]:
        plan, _, T, reverse, every = call
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
        return pulled(functools.partial(Scan._pull, ctx), cotangents)

    @staticmethod
    def _pull(ctx: Any, *cotangents: Any) -> Any:
        plan, count = ctx.call.plan, len(ctx.call.plan.leaves)
        saved, needed = ctx.saved_tensors, ctx.needs_input_grad[1:]
        leaves, checkpoints = saved[:count], saved[count:]
        wanted = tuple(i for i in range(count) if plan.real[i] and needed[i])
        if not wanted or all(c is None for c in cotangents[: ctx.results]):
            return (None,) * (1 + count)
        tensors = *leaves, *_cotangents(plan, leaves, cotangents, ctx.call.T), *checkpoints
        found = dict(zip(wanted, run(Adjoint, ctx.call, wanted, *tensors)))
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
        results = Scan.apply(call, *folded)
        count = plan.outputs, plan.counts[1], len(results) - plan.outputs - plan.counts[1]
        return results, (1,) * count[0] + (0,) * count[1] + (1,) * count[2]


class Adjoint(torch.autograd.Function):
    """`(call, wanted, *leaves, *cotangents, *checkpoints) -> gradients of the wanted leaves`"""

    @staticmethod
    def forward(call: Call, wanted: tuple[int, ...], *tensors: Tensor) -> tuple[Tensor, ...]:
        plan, source, T, reverse, every = call
        leaves, cotangents, checkpoints = _three(plan, tensors)
        lanes, uniform = _lanes(plan, leaves)
        if not lanes.numel():
            return tuple(torch.zeros_like(leaves[i]) for i in wanted)
        kernel = plan.backward(uniform, wanted, leaves[0].device.type, source)
        every = every or min(T, checkpointing(T, plan) or T)
        if not checkpoints and every == T:
            checkpoints = [state[None] for state in plan.split(leaves)[1]]
        checkpoints = [x.contiguous() for x in checkpoints]  # vmap may have expanded them
        gradients = kernel(leaves, cotangents, checkpoints, lanes, T, reverse, every)
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
        return pulled(functools.partial(Adjoint._pull, ctx), cotangents)

    @staticmethod
    def _pull(ctx: Any, *cotangents: Any) -> Any:
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
        gradients = Adjoint.apply(call, wanted, *leaves, *rest)
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
    plan, source, T, reverse, _ = call
    adjoint = _higher(plan, source, plan.adjoint)
    forth, back = Call(plan.trajectory(), None, T, reverse, 0), Call(adjoint, None, T, not reverse, 0)
    lanes, _ = _lanes(plan, tensors)
    zeros = [p.new_zeros(()).expand(lanes) for p in plan.split(tensors)[0] if p.is_floating_point()]

    def arranged(tensors: list[Any], path: Any, sums: Any) -> list[Any]:
        leaves, cotangents, _ = _three(plan, tensors)
        params, _, inputs = plan.split(leaves)
        d_outputs, d_states = cotangents[: len(plan.sensitive)], cotangents[len(plan.sensitive) :]
        return [*params, *d_states, *sums, *inputs, *path, *d_outputs]

    def gradients(results: Any) -> tuple[Tensor, ...]:
        d_inputs, rest = results[: adjoint.outputs], results[adjoint.outputs :]
        d_states, d_params = rest[: len(plan.moving)], rest[len(plan.moving) : len(plan.moving) + len(zeros)]
        found = dict(zip([i for i, real in enumerate(plan.real) if real], (*d_params, *d_states, *d_inputs)))
        return tuple(found[i].sum_to_size(tensors[i].shape) if i < plan.counts[0] else found[i] for i in wanted)

    leaves = tensors[: len(plan.leaves)]
    count = plan.counts[1]
    if moves is None:
        path = run(Scan, forth, *leaves)[:count]
        return gradients(run(Scan, back, *arranged(tensors, path, zeros))), ()
    path, d_path = _tangent(forth, leaves, moves[: len(leaves)])
    # Of a state that is no number there is no move.
    d_states = iter(d_path)
    d_path = [next(d_states) if s in plan.moving else None for s in range(count)]
    given = arranged(tensors, path[:count], zeros)
    results, moved = _tangent(back, given, arranged(moves, d_path, [None] * len(zeros)))
    return gradients(results), gradients(moved)


def _tangent(call: Call, leaves: Any, moves: Any) -> tuple[list[Tensor], list[Tensor]]:
    """The results of a scan, and the moves of its floating ones, where its floating leaves move so (None: not at all)."""
    plan, source, T, reverse, _ = call
    given: list[Tensor] = []
    for part, d_part in zip(plan.split(leaves), plan.split(moves)):
        given += part
        given += [torch.zeros_like(p) if d is None else d for p, d in zip(part, d_part) if p.is_floating_point()]
    tangent, states = _told(plan.tangent, source), plan.counts[1]
    results = run(Scan, Call(tangent, None, T, reverse, 0), *given)
    values = [*results[: plan.outputs], *results[tangent.outputs : tangent.outputs + states]]
    return values, [*results[plan.outputs : tangent.outputs], *results[tangent.outputs + states :]]


HIDDEN = "has a derivative of its own (an autograd.Function, or no_grad), of which a kernel knows no higher ones"


def _higher(plan: Plan, source: Later, make: Any) -> Plan:
    """A derivative of a derivative. Raises RuntimeError where it cannot be had, and it is too late for the loop."""
    if not _told(plan.faithful, source):
        raise RuntimeError(f'scan: the step {HIDDEN}. Take scan(..., kind="loop").')
    return _told(make, source)


def _told(make: Any, source: Later) -> Any:
    try:
        return make(source)
    except Unsupported as reason:
        raise RuntimeError(
            f'scan: no kernel differentiates this step here: {reason}. Take scan(..., kind="loop").'
        ) from None


def checkpointing(T: int, plan: Plan) -> int:
    """Steps from one checkpoint to the next: 16, more where states are many. They take at most 1/8 of an input's memory. 0 where
    there would be one only: it is the state that the scan begins with."""
    every = 16 * max(1, (plan.counts[1] + 1) // 2)
    return every if T > every else 0


def _lanes(plan: Plan, leaves: Any) -> tuple[torch.Size, tuple[bool, ...]]:
    """The shape of one time step, and which params are one number for all of it."""
    params, states, inputs = plan.split(leaves)
    if states:
        shape = states[0].shape
    elif inputs:
        shape = inputs[0].shape[1:]
    else:
        shape = broadcast(*(p.shape for p in params))
    return shape, uniform(params)


def uniform(params: list[Tensor]) -> tuple[bool, ...]:
    """Which params are one number for all neurons."""
    return tuple([p.numel() == 1 for p in params])


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


def _nothing(plan: Plan, leaves: Any, lanes: torch.Size, T: int, every: int) -> list[Tensor]:
    empty = lambda shape, dtype: torch.empty(shape, dtype=dtype, device=leaves[0].device)
    out = [empty((T, *lanes), dtype) for dtype in plan.types[: plan.outputs]]
    out += [empty(lanes, dtype) for dtype in plan.types[plan.outputs :]]
    return out + [empty((1, *lanes), dtype) for dtype in plan.types[plan.outputs :] if every]
