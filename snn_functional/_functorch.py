"""Looking at tensors from outside `torch.func`: the one file that uses its private names.

Inside a transform a tensor is a stack of wrappers, one a level: `vmap` wraps in a batched tensor, `grad` and `vjp` in a
gradient-tracking one, `jvp` in a dual one.
"""

import contextlib
import functools
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._device import DeviceContext


_functorch = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]


def readable(tensor: Tensor) -> bool:
    """Can its numbers be looked at for free: on the CPU, not traced, not batched, not a subclass that stands for data?"""
    if tensor.device.type != "cpu" or is_compiling() or intercepted():
        return False
    return type(tensor) in (Tensor, torch.nn.Parameter) and _functorch.maybe_get_level(tensor) < 0


def is_compiling() -> bool:
    """Is `torch.compile` or `torch.export` tracing?"""
    compiler: Any = getattr(torch, "compiler", None)  # torch 2.0 has none
    return compiler.is_compiling() if hasattr(compiler, "is_compiling") else False


def is_dynamo_compiling() -> bool:
    """Is this code itself being read by `torch.compile`, instead of run?"""
    compiler: Any = getattr(torch, "compiler", None)
    return compiler.is_dynamo_compiling() if hasattr(compiler, "is_dynamo_compiling") else False


def is_exporting() -> bool:
    """Is `torch.export` running this code?"""
    compiler: Any = getattr(torch, "compiler", None)
    return compiler.is_exporting() if hasattr(compiler, "is_exporting") else False


def can_capture() -> bool:
    """Does this torch have a compiler that reads a step as the body of an operation? Before 2.13 it reads too little."""
    return tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 13)


def watched() -> bool:
    """Does `torch.compile` run this code as it is, in the hope to compile some function that is called from here?"""
    return bool(torch._C._dynamo.eval_frame.get_eval_frame_callback())  # pyright: ignore[reportAttributeAccessIssue]


def put_back_later(function: Any, *args: Any) -> None:
    """`function(*args)`, whose writes whoever calls this undoes. In the body of an operation a compiler refuses all others."""
    if is_dynamo_compiling() and can_capture():
        torch._dynamo.utils._disable_side_effect_safety_checks_for_current_subtracer(function, *args)
    else:
        function(*args)


def depends(outputs: Iterable[Tensor], arguments: Iterable[Tensor]) -> bool:
    """Do outputs made of *detached* `arguments` still carry a derivative, or a batch, of some other tensor?"""
    batched = {level for argument in arguments for level, kind in _wrappers(argument) if kind == "batched"}
    for output in outputs:
        if any(kind != "batched" or level not in batched for level, kind in _wrappers(output)):
            return True
    return False


def _wrappers(tensor: Tensor) -> Iterator[tuple[int, str]]:
    dual = _forward_mode()
    while True:
        level = _functorch.maybe_get_level(tensor)
        if level >= 0 and _functorch.is_batchedtensor(tensor):
            yield level, "batched"  # and nothing else: what is asked of it would be asked of the batch
        else:
            if tensor.requires_grad:
                yield level, "tracked"
            if dual and forward_ad.unpack_dual(tensor, level=0).tangent is not None:
                yield level, "dual"
        if level < 0:
            return
        tensor = _functorch.get_unwrapped(tensor)


def _forward_mode() -> bool:
    # A compiler's graph enters it by a way that torch's own count does not hear of.
    return forward_ad._current_level >= 0 or (intercepted() and "Jvp" in transforms())


def outside() -> Any:
    """A context in which no transform is active: what is traced there is traced as it stands."""
    from torch._functorch import pyfunctorch

    if hasattr(pyfunctorch, "temporarily_clear_interpreter_stack"):
        return pyfunctorch.temporarily_clear_interpreter_stack()
    return contextlib.nullcontext()


def traced(tensor: Tensor) -> bool:
    """Is it a tracer's, which stands for one with numbers?"""
    while _functorch.maybe_get_level(tensor) >= 0:
        tensor = _functorch.get_unwrapped(tensor)
    return type(tensor).__module__ in ("torch._subclasses.fake_tensor", "torch._subclasses.functional_tensor")


@contextlib.contextmanager
def untraced() -> Iterator[None]:
    """A context in which no tracer sees the operations."""
    if not intercepted():
        yield
        return
    from torch._functorch import eager_transforms
    from torch.utils import _python_dispatch

    unheard = int(_forward_mode() and forward_ad._current_level < 0)
    forward_ad._current_level += unheard
    eager_transforms.JVP_NESTING += unheard
    functions = [torch._C._pop_torch_function_stack() for _ in range(torch._C._len_torch_function_stack())]
    try:
        with _python_dispatch._disable_current_modes(), torch._C._DisablePythonDispatcher():
            yield
    finally:
        for mode in reversed(functions):
            torch._C._push_on_torch_function_stack(mode)
        forward_ad._current_level -= unheard
        eager_transforms.JVP_NESTING -= unheard


def under_old_vmap(tensors: Iterable[Any]) -> bool:
    """Is one of them batched by torch's first vmap, which `is_grads_batched=True` and `vectorize=True` still use? No rule sees that one."""
    look = getattr(_functorch, "is_legacy_batchedtensor", None)
    return look is not None and any(isinstance(x, Tensor) and look(x) for x in tensors)


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


def untransformed() -> bool:
    """Is no transform active?"""
    return _functorch.peek_interpreter_stack() is None


def transforms() -> list[str]:
    """The active transforms, the outermost first: "Jvp", "Grad" (`vjp` too), "Vmap", ..."""
    if hasattr(_functorch, "get_interpreter_stack"):
        stack = _functorch.get_interpreter_stack() or ()
        return [_kind(level) for level in stack]
    # torch 2.0 shows the top one only: they are taken off one by one, and put back.
    found, taken = [], []
    while (level := _functorch.peek_interpreter_stack()) is not None:
        found.insert(0, _kind(level))
        taken.append(_functorch.pop_dynamic_layer_stack())
    for layer in reversed(taken):
        _functorch.push_dynamic_layer_stack(layer)
    return found


def _kind(level: Any) -> str:
    return str(level.key()).rpartition(".")[2]


def wrapping(tensors: Iterable[Tensor]) -> set[str]:
    """What is done to any of them, at any level: "tracked" backward, "dual" forward, "batched"; "wrapped" by a transform at all."""
    found: set[str] = set()
    dual, grads = _forward_mode(), torch.is_grad_enabled()
    for tensor in tensors:
        level = _functorch.maybe_get_level(tensor)  # -1 where nothing wraps it, -2 where the transform that did is over
        if dual or level != -1:
            found |= {kind for _, kind in _wrappers(tensor)}
            found |= {"wrapped"} if level != -1 else set()
        elif tensor.requires_grad:
            found.add("tracked")
    return found if grads else found - {"tracked"}


def left_behind(tensor: Tensor) -> bool:
    """Was it batched by a `vmap` that is over? Nothing can be done with such a tensor any more: it cannot even be copied."""
    top = _functorch.peek_interpreter_stack()
    depth = 0 if top is None else top.level()
    # -1: nothing wraps it any more; -2: a wrapper of a `grad` that is over, which lets everything through.
    while (level := _functorch.maybe_get_level(tensor)) != -1:
        if level > depth and _functorch.is_batchedtensor(tensor):
            return True
        tensor = _functorch.get_unwrapped(tensor)
    return False


def in_memory(tensors: Iterable[Tensor]) -> list[Tensor]:
    """As they stand in memory. Three kinds have none of their own: the wrapper that a transform left behind, forward mode's zeros,
    and the imaginary part of a conjugate, which is negated lazily."""
    bare = (x.resolve_neg() for x in tensors)  # which takes the wrapper off, too
    return [x.new_zeros(()).expand(x.shape) if x._is_zerotensor() else x for x in bare]


def intercepted() -> bool:
    """Does something else than torch's own kernels see the operations: `make_fx`, fake tensors, a counter, `torch.jit.trace`?"""
    if is_dynamo_compiling():
        return True
    if torch._C._len_torch_dispatch_stack() or torch._C._get_tracing_state() is not None:
        return True
    if is_exporting() and torch._ops._len_torch_dispatch_stack_pre_dispatch():  # where `torch.export` has its own
        return True
    count = torch._C._len_torch_function_stack()
    return count > 0 and any(not isinstance(torch._C._get_function_stack_at(i), DeviceContext) for i in range(count))


@contextlib.contextmanager
def without_hooks() -> Iterator[None]:
    """A context in which nobody hears of what autograd saves: where somebody does, `torch.func` raises."""
    hooks: list[Any] = []
    graph: Any = torch._C._autograd  # pyright: ignore[reportAttributeAccessIssue]
    top: Any = getattr(graph, "_top_saved_tensors_default_hooks", lambda _: None)
    while (pair := top(True)) is not None:
        hooks.append(pair)
        graph._pop_saved_tensors_default_hooks()
    try:
        yield
    finally:
        for pair in reversed(hooks):
            graph._push_saved_tensors_default_hooks(*pair)


def ends_a_recomputation(error: Exception) -> bool:
    """Is it no failure at all, but how `torch.utils.checkpoint` stops when it has all that a backward needs?"""
    return type(error).__module__ == "torch.utils.checkpoint"


def autocast() -> Any:
    """What autocast does to operations now, on the CPU and on CUDA; None where it is off."""
    if not hasattr(torch, "get_autocast_dtype"):  # before torch 2.4
        old: Any = torch
        cpu = old.is_autocast_cpu_enabled() and old.get_autocast_cpu_dtype()
        cuda = old.is_autocast_enabled() and old.get_autocast_gpu_dtype()
        return (cpu, cuda) if cpu or cuda else None
    if not torch._C._is_any_autocast_enabled():
        return None
    return tuple(torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) for kind in ("cpu", "cuda"))


def applied(function: type[torch.autograd.Function], *args: Any) -> Any:
    """`function.apply(*args)` for one that gives new tensors only, without what costs more than a small kernel: a look at a signature, and
    under a single `grad` a class made for the call, trees of the arguments and a second `apply`."""
    below: Any = super(torch.autograd.Function, function)
    if untransformed():
        return below.apply(*args)
    level = only_grad()
    if (
        level is None
        or forward_ad._current_level >= 0
        or not all(_of_level(x, level) for x in args if isinstance(x, Tensor))
    ):
        return function.apply(*args)
    before = _functorch.get_single_level_autograd_function_allowed()
    _functorch.set_single_level_autograd_function_allowed(True)
    try:
        return _at_one_level(function, level).apply(*args)
    finally:
        _functorch.set_single_level_autograd_function_allowed(before)


def _of_level(tensor: Tensor, level: int) -> bool:
    """Is it of this level alone, or of none? One that an inner `grad` has left its wrapper on is neither."""
    own = _functorch.maybe_get_level(tensor)
    if own == level:
        tensor = _functorch.get_unwrapped(tensor)
        own = _functorch.maybe_get_level(tensor)
    return own == -1 and not tensor.requires_grad


def only_grad() -> int | None:
    """The level of a `grad` or `vjp` that is the only transform."""
    if not hasattr(_functorch, "get_interpreter_stack") or not hasattr(
        _functorch, "get_single_level_autograd_function_allowed"
    ):
        return None
    stack = _functorch.get_interpreter_stack()
    return stack[0].level() if len(stack) == 1 and _kind(stack[0]) == "Grad" else None


@functools.cache
def _at_one_level(function: type[torch.autograd.Function], level: int) -> Any:
    """What torch makes of a Function under one `grad`: its tensors are taken out of their wrappers, and put into new ones."""

    def forward(*args: Any) -> Any:
        bare_args = [_functorch._unwrap_for_grad(x, level) if isinstance(x, Tensor) else x for x in args]
        with outside():
            results = function.forward(*bare_args)
        if isinstance(results, Tensor):
            return _functorch._wrap_for_grad(results, level)
        return tuple([_functorch._wrap_for_grad(x, level) for x in results])

    rules: Any = function
    methods = {"forward": forward, "setup_context": rules.setup_context, "backward": rules.backward}
    base: Any = torch.autograd.function._SingleLevelFunction
    return type(function.__name__, (base,), {name: staticmethod(method) for name, method in methods.items()})


def numbers_in(tensor: Tensor) -> int:
    """How many numbers it has, all that a `vmap` goes over included."""
    while _functorch.maybe_get_level(tensor) >= 0:
        tensor = _functorch.get_unwrapped(tensor)
    return tensor.numel()


def run(function: type[torch.autograd.Function], *args: Any) -> Any:
    """A primitive, with its rules where something is done to a tensor among `args`. Where nothing is, no transform that is active
    around it shall see what is done inside: it would take the kernel's memory for tensors of its own."""
    if wrapping(x for x in args if isinstance(x, Tensor)):
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
    return functools.wraps(backward)(lambda ctx, *cotangents: _pulled(functools.partial(backward, ctx), cotangents))


def _pulled(rule: Any, cotangents: tuple[Any, ...]) -> tuple[Any, ...]:
    there = [i for i, c in enumerate(cotangents) if c is not None]
    if not under_old_vmap(cotangents[i] for i in there):
        return rule(*cotangents)
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
