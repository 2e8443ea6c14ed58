"""How a primitive, an `autograd.Function` with a rule for each transform, is called and pulled: as torch does it, with less ado.

A primitive gives new tensors only. Each call looks at what is done to its tensors, goes through the levels of `torch.func` one by one,
and is the kernel alone where nothing is done to them.
"""

import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ._functorch import forward_mode, intercepted, kind_of, LEVELS, outside, untransformed, wrapping


_functorch = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]


def applied(function: type[torch.autograd.Function], *args: Any) -> Any:
    """`function.apply(*args)` for one that gives new tensors only, level by level as torch does it, without what costs more than a small
    kernel: a look at a signature, and at each level a class made for the call and trees of the arguments."""
    below: Any = super(torch.autograd.Function, function)
    if untransformed():
        return below.apply(*args)
    if not LEVELS or intercepted() or forward_ad._current_level >= 0:
        return function.apply(*args)
    args = tuple([_functorch.unwrap_if_dead(x) if isinstance(x, Tensor) else x for x in args])
    top = _functorch.peek_interpreter_stack()
    kind, level = kind_of(top), top.level()
    if kind == "Vmap":
        return _batched(function, top, args)
    if kind != "Grad":
        return function.apply(*args)
    before = _functorch.get_single_level_autograd_function_allowed()
    _functorch.set_single_level_autograd_function_allowed(True)
    try:
        return _at_level(function, level).apply(*[_lifted(x, level) if isinstance(x, Tensor) else x for x in args])
    finally:
        _functorch.set_single_level_autograd_function_allowed(before)


def _lifted(tensor: Tensor, level: int) -> Tensor:
    """As a tensor of this level: what another one tracks or has batched shall not be taken for tracked here."""
    own = _functorch.maybe_get_level(tensor)
    outer = own != level and (own != -1 or tensor.requires_grad)
    return _functorch._wrap_for_grad(tensor, level) if outer else tensor


@functools.cache
def _at_level(function: type[torch.autograd.Function], level: int) -> Any:
    """What torch makes of a Function under `grad`: its tensors are taken out of their wrappers, and put into new ones."""

    def forward(*args: Any) -> Any:
        around = _functorch.CGradInterpreterPtr(_functorch.peek_interpreter_stack()).prevGradMode()
        bare_args = [_functorch._unwrap_for_grad(x, level) if isinstance(x, Tensor) else x for x in args]
        with torch.set_grad_enabled(around), outside(1):
            results = run(function, *bare_args)
        if isinstance(results, Tensor):
            return _functorch._wrap_for_grad(results, level)
        return tuple([_functorch._wrap_for_grad(x, level) for x in results])

    rules: Any = function
    methods = {"forward": forward, "setup_context": rules.setup_context, "backward": rules.backward}
    base: Any = torch.autograd.function._SingleLevelFunction
    return type(function.__name__, (base,), {name: staticmethod(method) for name, method in methods.items()})


def _batched(function: Any, top: Any, args: Any) -> Any:
    """By the rule of the Function for `vmap`."""
    level = top.level()
    pairs = [_functorch._unwrap_batched(x, level) if isinstance(x, Tensor) else (x, None) for x in args]
    dims = tuple([d for _, d in pairs])
    with outside(1):
        if all([d is None for d in dims]):
            return run(function, *args)
        info = VmapInfo(_functorch.CVmapInterpreterPtr(top).batchSize())
        results, out = function.vmap(info, dims, *[x for x, _ in pairs])
    wrap = lambda x, d: x if d is None else _functorch._add_batch_dim(x, d, level)
    return wrap(results, out) if isinstance(results, Tensor) else tuple(map(wrap, results, out))


class VmapInfo(NamedTuple):
    """What a Function's rule for `vmap` is told."""

    batch_size: int


def run(function: type[torch.autograd.Function], *args: Any) -> Any:
    """A primitive, with its rules where something is done to a tensor among `args`. Where nothing is, no transform that is active
    around it shall see what is done inside: it would take the kernel's memory for tensors of its own."""
    recorded = torch.is_grad_enabled() or forward_mode() or not untransformed()
    if recorded and wrapping([x for x in args if isinstance(x, Tensor)]):
        return applied(function, *args)
    return bare(function, *args)


def bare(function: type[torch.autograd.Function], *args: Any) -> Any:
    """The same, where nothing is done to any of the tensors."""
    if untransformed():
        return function.forward(*args)
    with outside():
        return function.forward(*args)


def pulled(backward: Any) -> Any:
    """A Function's `backward(ctx, *cotangents)`; where torch's old vmap goes over the cotangents, which no rule sees, by the new one."""

    backward = once_or_told(backward)

    @functools.wraps(backward)
    def rule(ctx: Any, *cotangents: Any) -> Any:
        if not under_old_vmap(cotangents):
            return backward(ctx, *cotangents)
        return _pulled_by_vmap(functools.partial(backward, ctx), cotangents)

    return rule


def once_or_told(backward: Any) -> Any:
    """A Function's `backward(ctx, *cotangents)`; where torch refuses it because the graph is gone, with what may help."""

    @functools.wraps(backward)
    def told(ctx: Any, *cotangents: Any) -> Any:
        try:
            return backward(ctx, *cotangents)
        except RuntimeError as error:
            if "through the graph a second time" not in str(error) or CARRIED in str(error):
                raise
            raise RuntimeError(f"{error}{CARRIED}") from error

    return told


CARRIED = """
Was a state carried on from a batch whose backward is done? It belongs to that graph. Begin anew, or cut it off:
    snn.utils.reset(net)                                     faces at rest again; face.detach_hidden() keeps where they are
    state = optree.tree_map(torch.Tensor.detach, state)      a state that scan or module returned, before it goes on"""


def _pulled_by_vmap(rule: Any, cotangents: tuple[Any, ...]) -> tuple[Any, ...]:
    there = [i for i, c in enumerate(cotangents) if c is not None]
    given: list[bool] = []  # of the results, which ones are None cannot come out of a vmap

    def mapped(*tensors: Tensor) -> tuple[Tensor, ...]:
        every: list[Any] = [None] * len(cotangents)
        for i, c in zip(there, tensors):
            every[i] = c
        results = rule(*every)
        given[:] = [x is not None for x in results]
        return tuple(x for x in results if x is not None)

    found = iter(by_old_vmap(mapped, [cotangents[i] for i in there]))
    return tuple(next(found) if real else None for real in given)


def under_old_vmap(tensors: Iterable[Any]) -> bool:
    """Is one of them batched by torch's first vmap, which `is_grads_batched=True` and `vectorize=True` still use? No rule sees that one."""
    look = getattr(_functorch, "is_legacy_batchedtensor", None)
    return look is not None and any([isinstance(x, Tensor) and look(x) for x in tensors])


def by_old_vmap(function: Any, tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """`function(*tensors)` for tensors that the old vmap has batched, by the new one."""
    private: Any = torch
    level = torch._C._vmapmode_increment_nesting() - 1
    torch._C._vmapmode_decrement_nesting()
    tensors = list(tensors)
    batched = [_functorch.is_legacy_batchedtensor(x) for x in tensors]
    whole = [private._remove_batch_dim(x, level, 1, 0) if b else x for x, b in zip(tensors, batched)]
    every: Any = torch.func.vmap(function, in_dims=tuple(0 if b else None for b in batched))
    return tuple(private._add_batch_dim(x, 0, level) for x in every(*whole))
