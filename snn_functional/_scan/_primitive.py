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
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._functorch import in_memory, intercepted, is_exporting, outside
from .._primitives import pulled, run
from ..kernels import broadcast, broadcasts, Flow, lane_axis, Later, only_floats, Plan, Role, split, Unsupported
from ._operations import into_matrices, scanned, scanned_back


class Call(NamedTuple):
    """What a scan runs beside its leaves. `source`: the step itself, for derivatives that were not read yet; None where the plan is
    made of one already. `every`: steps from one checkpoint of the state to the next; 0 for none. `keep`: is what products give kept, too?
    """

    plan: Plan
    source: Later
    T: int
    reverse: bool
    every: int
    keep: bool = False


class Scan(torch.autograd.Function):
    """`(call, *leaves) -> (*outputs, *last state, *what is kept for the backward)`"""

    @staticmethod
    def forward(call: Call, *leaves: Tensor) -> tuple[Tensor, ...]:
        plan, _, T, reverse, every, keep = call
        (lanes, uniform), device = lanes_of(plan, leaves), leaves[0].device
        if not lanes.numel():
            results, memory = plan.signature.results.empty(lanes, T, device), plan.signature.memory
            return (*results, *memory(lanes, T, every, keep, device))
        return tuple(scanned(plan.forward(uniform, device.type), leaves, lanes, T, reverse, every, keep))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.call, *leaves = inputs
        results, checkpoints = split(output, ctx.call.plan.signature.results)
        ctx.count = len(checkpoints)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*leaves, *checkpoints)
        ctx.save_for_forward(*leaves)
        ctx.mark_non_differentiable(*[x for x in results if not x.is_floating_point()], *checkpoints)

    @staticmethod
    @pulled
    def backward(ctx: Any, *cotangents: Any) -> Any:
        plan, needed = ctx.call.plan, ctx.needs_input_grad[1:]
        signature = plan.signature
        wanted = tuple(i for i in signature.leaves.floating if needed[i])
        cotangents = tuple([cotangents[i] for i in signature.results.floating])
        if not wanted or all([c is None for c in cotangents]):
            return (None,) * (1 + len(needed))
        leaves, checkpoints = split(ctx.saved_tensors, signature.leaves)
        (lanes, _), device = lanes_of(plan, leaves), leaves[0].device
        shapes = signature.cotangents.shapes(lanes, ctx.call.T)
        # Where nothing came back, one zero stands for all: kernels read through strides.
        full = [
            _zeros(dtype, device, shape) if c is None else c
            for c, dtype, shape in zip(cotangents, signature.cotangents.dtypes, shapes)
        ]
        found = dict(zip(wanted, run(Adjoint, ctx.call, wanted, *leaves, *full, *checkpoints)))
        return None, *(found.get(i) for i in range(len(needed)))

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        signature = ctx.call.plan.signature
        leaves, _ = split(ctx.saved_tensors, signature.leaves)
        moves = signature.results.spread(_tangent(ctx.call, leaves, tangents[1:])[1])
        return (*moves, *[None] * ctx.count)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        call, *leaves = args
        signature = call.plan.signature
        results = run(Scan, call, *_fold(signature.leaves.roles, leaves, in_dims[1:], info.batch_size))
        roles = (signature.results + signature.checkpoints + signature.gave).roles
        return results, tuple(lane_axis(role) for role, _ in zip(roles, results))


class Adjoint(torch.autograd.Function):
    """`(call, wanted, *leaves, *cotangents, *checkpoints) -> gradients of the wanted leaves`"""

    @staticmethod
    def forward(call: Call, wanted: tuple[int, ...], *tensors: Tensor) -> tuple[Tensor, ...]:
        plan, source, T, reverse, every, _ = call
        leaves, cotangents, checkpoints = split(tensors, plan.signature.leaves, plan.signature.cotangents)
        lanes, uniform = lanes_of(plan, leaves)
        if not lanes.numel():
            return tuple(torch.zeros_like(leaves[i]) for i in wanted)
        kernel = _told(lambda source: plan.backward(uniform, wanted, leaves[0].device.type, source), source)
        every = every or min(T, checkpointing(T, plan, False) or T)
        if not checkpoints and every == T:
            checkpoints = [state[None] for state in plan.signature.leaves.split(leaves)[1]]
        # vmap may have expanded them; and they may be wrapped still by a transform that is over, as vjp is when one pulls back.
        checkpoints = [x.contiguous() for x in in_memory(checkpoints)]
        found = dict(
            zip(kernel.wanted, scanned_back(kernel, leaves, cotangents, checkpoints, lanes, T, reverse, every))
        )
        return tuple(found[i] for i in wanted)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.call, ctx.wanted, *tensors = inputs
        read, _ = split(
            tensors, ctx.call.plan.signature.backward
        )  # checkpoints do not come into derivatives of this one
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*read)
        ctx.save_for_forward(*read)

    @staticmethod
    @pulled
    def backward(ctx: Any, *cotangents: Any) -> Any:
        tensors = ctx.saved_tensors
        gradient = lambda *tensors: _adjoint_by_scans(ctx.call, ctx.wanted, tensors)[0]
        floats, of_floats = only_floats(gradient, tensors)
        pair: Any = torch.func.vjp(of_floats, *floats)
        values, pull = pair
        found = pull(tuple(torch.zeros_like(x) if c is None else c for x, c in zip(values, cotangents)))
        out = [None, None, *ctx.call.plan.signature.backward.spread(found)]
        return (*out, *[None] * (len(ctx.needs_input_grad) - len(out)))

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        moves = [
            torch.zeros_like(x) if d is None and x.is_floating_point() else d
            for x, d in zip(ctx.saved_tensors, tangents[2:])
        ]
        return _adjoint_by_scans(ctx.call, ctx.wanted, ctx.saved_tensors, moves)[1]

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        call, wanted, *tensors = args
        dims, size = in_dims[2:], info.batch_size
        signature = call.plan.signature
        roles = (signature.backward + signature.checkpoints + signature.gave).roles
        gradients = run(Adjoint, call, wanted, *_fold(roles, tensors, dims, size, every_param=True))
        # Of a param it has the param's shape again, without the ones that made it broadcast.
        own = lambda i: tensors[i].shape if dims[i] is None else tensors[i].movedim(dims[i], 0).shape[1:]
        out = [x.reshape(size, *own(i)) if broadcasts(roles[i]) else x for i, x in zip(wanted, gradients)]
        return tuple(out), tuple(lane_axis(roles[i]) for i in wanted)


def _adjoint_by_scans(
    call: Call, wanted: tuple[int, ...], tensors: Sequence[Tensor], moves: Sequence[Any] | None = None
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The adjoint of its leaves and cotangents, made of scans, which can be differentiated again; and its move where these move."""
    plan, source, T, reverse, *_ = call
    signature = plan.signature
    adjoint = _higher(plan, source, plan.adjoint)
    forth, back = Call(plan.trajectory(), None, T, reverse, 0), Call(adjoint, None, T, not reverse, 0)
    d_params, d_states, d_inputs, _ = signature.leaves.only(signature.leaves.floating).parts
    leaves, _ = split(tensors, signature.leaves)
    lanes, _ = lanes_of(plan, leaves)
    of_params = signature.leaves.only(i for i in signature.leaves.places[0] if i in signature.leaves.floating)
    zeros = [_zeros(dtype, leaves[0].device, shape) for dtype, shape in zip(d_params, of_params.shapes(lanes, T))]
    products = plan.products.each

    def arranged(tensors: Sequence[Any], path: Any, sums: Any) -> list[Any]:
        """The leaves of the adjoint. `path`: the states, and what the products gave."""
        params, _, inputs, matrices, d_outputs, d_last = signature.backward.split(tensors)
        return [*params, *d_last, *sums, *inputs, *path, *d_outputs, *matrices]

    def gradients(results: Any, *flowing: Any) -> tuple[Tensor, ...]:
        """`flowing`: what the products took, and the results of which what flowed back into them is a part."""
        parts = lambda results: split(results, d_inputs, products, d_states, d_params)
        of_inputs, _, of_states, of_params, _ = parts(results)
        found = dict(zip(signature.leaves.floating, (*of_params, *of_states, *of_inputs)))
        flows = [flow for taken, back in flowing for flow in map(Flow, products, taken, parts(back)[1])]
        into_matrices(found, flows, signature, leaves, lambda z, d: z.mT @ d)
        is_param = lambda i: signature.leaves.roles[i] is Role.PARAM
        return tuple(found[i].sum_to_size(leaves[i].shape) if is_param(i) else found[i] for i in wanted)

    path_of = (*signature.leaves.parts[1], *products)
    values_of = lambda results: split(results, path_of, products)[:2]
    if moves is None:
        path, taken = values_of(run(Scan, forth, *leaves))
        results = run(Scan, back, *arranged(tensors, path, zeros))
        return gradients(results, (taken, results)), ()
    values, d_values = _tangent(forth, leaves, split(moves, leaves)[0])
    path, taken = values_of(values)
    d_path, d_taken = values_of(forth.plan.signature.results.spread(d_values))
    d_back = arranged(moves, d_path, [None] * len(zeros))
    results, d_results = _tangent(back, arranged(tensors, path, zeros), d_back)
    return gradients(results, (taken, results)), gradients(d_results, (taken, d_results), (d_taken, results))


def _tangent(call: Call, leaves: Any, moves: Any) -> tuple[list[Tensor], list[Tensor]]:
    """The results of a scan, and the moves of its floating ones, where its floating leaves move so (None: not at all)."""
    plan, source, T, reverse, *_ = call
    arguments: list[Tensor] = []
    for part, d_part in zip(plan.signature.leaves.split(leaves), plan.signature.leaves.split(moves)):
        arguments += part
        arguments += [_move(p, d) for p, d in zip(part, d_part) if p.is_floating_point()]
    results = run(Scan, Call(_told(plan.tangent, source), None, T, reverse, 0), *arguments)
    (outputs, last), (d_outputs, d_last) = plan.signature.results.parts, plan.signature.cotangents.parts
    ys, d_ys, states, d_states, _ = split(results, outputs, d_outputs, last, d_last)
    return ys + states, d_ys + d_states


def _move(leaf: Tensor, move: Tensor | None) -> Tensor:
    """As a kernel takes it. Of a number in single precision times a number of Python's, torch gives a tangent in double precision."""
    if move is None:
        return torch.zeros_like(leaf)
    return move if move.dtype == leaf.dtype else move.to(leaf.dtype)


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


KEEP = 1 << 26  # bytes of what products give up to which it is kept, where it could be worked out again


def keeping(T: int, plan: Plan, rows: int) -> bool:
    """Is what products give kept for the backward? It takes less time than to work it out again; but memory shall not grow with T."""
    if not plan.products.each or intercepted():  # to ask a tracer whether T is large would bind it
        return False
    return T * rows * plan.signature.gave.bytes <= KEEP


def checkpointing(T: int, plan: Plan, keep: bool) -> int:
    """Steps from one checkpoint to the next: 16, more where states are many. They take at most 1/8 of an input's memory. 0 where
    there would be one only: it is the state that the scan begins with. But what products give may be kept at each step."""
    every = 16 * max(1, (plan.counts[1] + 1) // 2)
    if is_exporting():  # an exported forward has no backward
        return 0
    return min(T, every) if T > every or keep or plan.signature.always else 0


def lanes_of(plan: Plan, leaves: Sequence[Tensor]) -> tuple[torch.Size, tuple[bool, ...]]:
    """The shape of one time step, and which params are one number for all of it."""
    params, states, inputs, _ = plan.signature.leaves.split(leaves)
    if plan.products.each:
        shape = states[0].shape[:-1]  # of rows
    elif states:
        shape = states[0].shape
    else:
        shape = inputs[0].shape[1:] if inputs else broadcast(*(p.shape for p in params))
    return shape, tuple([p.shape.numel() == 1 for p in params])


def _zeros(dtype: torch.dtype, device: torch.device, shape: Sequence[int]) -> Tensor:
    """One zero for all; nobody writes to it."""
    if intercepted():
        return torch.zeros((), dtype=dtype, device=device).expand(shape)
    return _kept_zeros(dtype, device, shape)


@functools.lru_cache(1000)
def _kept_zeros(dtype: torch.dtype, device: torch.device, shape: Sequence[int]) -> Tensor:
    with outside():
        return torch.zeros((), dtype=dtype, device=device).expand(shape)


def _fold(roles: Sequence[Role], tensors: Any, dims: Any, size: int, every_param: bool = False) -> list[Tensor]:
    """The mapped axis in front of the lanes, in all that has lanes, and in the params that are mapped (`every_param`: in all, where each
    sample is to have a gradient of its own)."""
    axes = lambda role, x, d: x.dim() - (d is not None) - lane_axis(role) - (role is Role.MATRIX)
    rank = max(map(axes, roles, tensors, dims), default=0)
    out = []
    for role, x, d in zip(roles, tensors, dims):
        axis = lane_axis(role)
        if d is not None:
            x = x.movedim(d, axis)
        elif not broadcasts(role) or every_param:
            x = x.unsqueeze(axis).expand(*x.shape[:axis], size, *x.shape[axis:])
        if broadcasts(role) and (d is not None or every_param):  # one that has fewer axes broadcasts from the right
            x = x.reshape(size, *[1] * (rank + 1 + (role is Role.MATRIX) - x.dim()), *x.shape[1:])
        out.append(x)
    return out
