"""Looking at tensors from outside `torch.func`: with `_primitives.py` the one file that uses its private names.

Inside a transform a tensor is a stack of wrappers, one a level: `vmap` wraps in a batched tensor, `grad` and `vjp` in a
gradient-tracking one, `jvp` in a dual one.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
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
    dual = forward_mode()
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


def forward_mode() -> bool:
    """Is any tangent computed?"""
    # A compiler's graph enters it by a way that torch's own count does not hear of.
    return forward_ad._current_level >= 0 or (intercepted() and "Jvp" in transforms())


class outside:
    """A context in which no transform is active: what is traced there is traced as it stands. `levels`: so many are left out."""

    def __init__(self, levels: int = 1 << 30) -> None:
        self.levels = levels

    def __enter__(self) -> None:
        self.taken = []
        while len(self.taken) < self.levels and _functorch.peek_interpreter_stack() is not None:
            self.taken.append(_functorch.pop_dynamic_layer_stack())

    def __exit__(self, *error: Any) -> None:
        while self.taken:
            _functorch.push_dynamic_layer_stack(self.taken.pop())


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

    unheard = int(forward_mode() and forward_ad._current_level < 0)
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


def untransformed() -> bool:
    """Is no transform active?"""
    return _functorch.peek_interpreter_stack() is None


def depth() -> int:
    """How many transforms are active."""
    top = _functorch.peek_interpreter_stack()
    return 0 if top is None else top.level()


def transforms() -> list[str]:
    """The active transforms, the outermost first: "Jvp", "Grad" (`vjp` too), "Vmap", ..."""
    return _of_levels(kind_of)


def mapped() -> int:
    """How many of everything there are: over so many the active `vmap`s go."""
    several = lambda level: _functorch.CVmapInterpreterPtr(level).batchSize() if kind_of(level) == "Vmap" else 1
    return math.prod(_of_levels(several))


def _of_levels(look: Callable[[Any], Any]) -> list[Any]:
    if hasattr(_functorch, "get_interpreter_stack"):
        return [look(level) for level in _functorch.get_interpreter_stack() or ()]
    # torch 2.0 shows the top one only: they are taken off one by one, and put back.
    found, taken = [], []
    while (level := _functorch.peek_interpreter_stack()) is not None:
        found.insert(0, look(level))
        taken.append(_functorch.pop_dynamic_layer_stack())
    for layer in reversed(taken):
        _functorch.push_dynamic_layer_stack(layer)
    return found


def kind_of(level: Any) -> str:
    return _KINDS[int(level.key())]


_KINDS = {int(kind): name for name, kind in _functorch.TransformType.__members__.items()}


def wrapping(tensors: Iterable[Tensor]) -> set[str]:
    """What is done to any of them, at any level: "tracked" backward, "dual" forward, "batched"; "wrapped" by a transform at all."""
    found: set[str] = set()
    dual, grads = forward_mode(), torch.is_grad_enabled()
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
    deepest = depth()
    # -1: nothing wraps it any more; -2: a wrapper of a `grad` that is over, which lets everything through.
    while (level := _functorch.maybe_get_level(tensor)) != -1:
        if level > deepest and _functorch.is_batchedtensor(tensor):
            return True
        tensor = _functorch.get_unwrapped(tensor)
    return False


def in_memory(tensors: Iterable[Tensor]) -> list[Tensor]:
    """As they stand in memory. Three kinds have none of their own: the wrapper that a transform left behind, forward mode's zeros,
    and the imaginary part of a conjugate, which is negated lazily."""
    bare = [x.resolve_neg() for x in tensors]  # which takes the wrapper off, too
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


# Can a primitive be taken through the levels one by one?
LEVELS = all(
    hasattr(_functorch, name)
    for name in (
        "get_interpreter_stack",
        "get_single_level_autograd_function_allowed",
        "unwrap_if_dead",
        "_unwrap_batched",
    )
)


def only_grad() -> int | None:
    """The level of a `grad` or `vjp` that is the only transform."""
    if not LEVELS:
        return None
    stack = _functorch.get_interpreter_stack()
    return stack[0].level() if len(stack) == 1 and kind_of(stack[0]) == "Grad" else None
