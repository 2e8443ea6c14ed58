"""What is known of a step at given shapes: one kernel, or stages. Learned once, then looked up."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import kernels
from .._functorch import autocast, depth, intercepted, is_compiling, transforms, untraced
from .._identity import identify, Registry
from .._tree import tree_flatten
from ..kernels import Form, NoCompiler, Unsupported
from ._door import admit
from ._loop import Step
from ._prepared import planned, Prepare, Prepared
from ._reading import Arguments, Captured, form, held, PLAIN, read, source
from ._stages import Staged, staged


class FirstDiffers(Unsupported):
    """The step has a kernel from the second time step on: the state that it begins with is of another form."""


_known: Registry[Any] = Registry(4096)


def prepare(step: Step, params: Any, state: Any, inputs: Any, length: int | None) -> Prepare:
    """What is known of a step at these shapes, and its leaves. Raises Unsupported with the reason why it has no kernel here."""
    captured = isinstance(step, Captured)
    _refuse_place(captured)
    if not callable(step) or hasattr(step, "step") and hasattr(step, "init"):  # a bundle
        admit(step, params, state, inputs, length)
    what = step.what if captured else identify(step, params, state, inputs)
    ps, p_tree = tree_flatten(params)
    ss, s_tree = tree_flatten(state)
    xs, x_tree = tree_flatten(inputs)
    every = [*ps, *what.tensors, *ss, *xs]
    try:
        forms = [(type(leaf), leaf.shape, leaf.dtype, leaf.device) for leaf in every]
    except AttributeError:
        admit(step, params, state, inputs, length)
        raise Unsupported("a leaf of params or state is not a tensor") from None
    key = what.key, length, torch.get_default_dtype(), autocast(), len(ps), len(ss), *forms
    settled = not (what.loose or what.opaque)
    entry = _known.get(key) if settled else None
    if entry is None:
        length = admit(step, params, state, inputs, length)
        # What is known at these shapes is known at any length.
        cause = None
        short = key[0], *key[2:6], *forms[: len(every) - len(xs)], *((x.shape[1:], x.dtype, x.device) for x in xs)
        entry = _known.get(short) if settled else None
        if entry is None:
            admits: Any = getattr(step, "__admit__", None)  # what a step itself has to say about its inputs
            if admits is not None and not what.opaque:
                admits(inputs)
            try:
                with untraced():
                    entry = _first(step, what, ps, ss, xs, (p_tree, s_tree, x_tree), length)
            except Unsupported as reason:
                # What is remembered has no cause, whose traceback would keep the step alive.
                entry, cause = type(reason)(*reason.args), reason.__cause__
            except NoCompiler:
                raise
            except Exception as error:  # whatever it is: the loop runs
                entry = Unsupported(f"it cannot be read: {type(error).__name__}: {error}")
        if settled:
            _known.put(short, entry)
            entry = _known.put(key, entry if isinstance(entry, Unsupported) else entry._replace(T=length))
        if isinstance(entry, Unsupported):
            raise type(entry)(*entry.args) from cause
    if isinstance(entry, Unsupported):
        raise type(entry)(*entry.args)
    trees = p_tree, s_tree, x_tree
    given = [*ps, *held(what)] if what.tensors else ps
    every = every if len(given) + len(ss) + len(xs) == len(every) else [*given, *ss, *xs]
    counts = len(given), len(ss)
    if isinstance(entry, Staged):
        return Prepare(entry, [], every, counts, None, s_tree, what.loose)
    # Asked for only where something of the step has not been read yet.
    later = lambda: source(
        Arguments(step, what, ps, ss, xs, trees, entry.device), entry.used, entry.gives, entry.states
    )
    return Prepare(entry, entry.leaves(every), every, counts, later, s_tree, what.loose)


def _first(
    step: Step, what: Any, ps: list[Tensor], ss: list[Tensor], xs: list[Tensor], trees: Any, length: int
) -> Prepared | Staged:
    if not isinstance(step, Captured):
        _refuse_leaves([*ps, *held(what), *ss, *xs])
    device = _place([*ps, *ss, *xs])
    if device.type != "cpu" and autocast() and any(x.dtype in (torch.float16, torch.bfloat16) for x in (*ps, *ss, *xs)):
        raise Unsupported("autocast is on, and a leaf is in half precision")
    return _prepare(Arguments(step, what, ps, ss, xs, trees, device), length)


def _refuse_place(captured: bool) -> None:
    if is_compiling() and not captured:
        raise Unsupported("torch.compile is tracing")
    if intercepted() and not captured:
        raise Unsupported("a dispatch or function mode is active, which sees operations one by one")
    active = transforms() if depth() > 2 else ()
    if "Grad" in active and "".join(active).rpartition("Grad")[0].count("Jvp") > 1:
        # torch turns forward mode off inside a Function's jvp, and with it the outer one of the two.
        raise Unsupported("two forward-mode transforms are around a reverse one, which kernels cannot follow")


def _refuse_leaves(leaves: list[Tensor]) -> None:
    for leaf in leaves:
        if vars(leaf):
            raise Unsupported(f"a leaf carries attributes: {', '.join(vars(leaf))}")
        if type(leaf) not in PLAIN:
            raise Unsupported(f"a leaf is a {type(leaf).__name__}, which computes in its own way")
        if leaf.layout != torch.strided:
            raise Unsupported("a leaf is sparse")
        if leaf.is_quantized or leaf.is_nested:
            raise Unsupported(f"a leaf is {'quantized' if leaf.is_quantized else 'nested'}")


def _place(leaves: list[Tensor]) -> torch.device:
    """The one device of all leaves; numbers on the CPU go anywhere."""
    devices = {leaf.device for leaf in leaves if leaf.dim() or leaf.device.type != "cpu"}
    devices = devices or {leaf.device for leaf in leaves}
    if len(devices) != 1 or next(iter(devices)).type not in kernels.BACKENDS:
        where = " and ".join(sorted({device.type for device in devices}))
        raise Unsupported(f"there is no kernel for {where or 'a step without tensors'}")
    return devices.pop()


def _prepare(arguments: Arguments, length: int) -> Prepared | Staged:
    given = [*arguments.params, *arguments.held]
    params, states = len(given), len(arguments.states)
    before = tuple(form(s) for s in arguments.states)
    tape, tree = read(arguments, before)
    whole = any(node.why for node in tape.nodes)
    if not whole:
        kernels.ready(arguments.device.type)
    outputs = len(tape.outputs) - states
    after = tuple(Form(x.dtype, x.shape) for x in tape.outputs[outputs:])
    if any((a.dtype, a.shape) != (b.dtype, b.shape) for a, b in zip(before, after)):
        # The first step may broadcast the state, and gives a 0-d one its dtype. From then on it must do what it did.
        _refuse_change(before, after)
        after = tuple(a._replace(parameter=b.parameter) if a.shape == b.shape else a for a, b in zip(after, before))
        again, tree = read(arguments, after)
        if [(x.dtype, x.shape) for x in again.outputs[outputs:]] != [(a.dtype, a.shape) for a in after]:
            raise Unsupported("it changes the shape of its state more than once")
        changed = {params + i for i, (a, b) in enumerate(zip(before, after)) if a.dtype != b.dtype}
        if not kernels.alike(tape, again, changed):
            raise FirstDiffers("its first step, which broadcasts the state, is not like the others")
        tape = again
    if whole:
        return staged(tape, params, after, arguments.device, tree, length)
    return planned(tape, arguments.device, tree, params, states, after, length)


def _refuse_change(before: Sequence[Form], after: Sequence[Form]) -> None:
    for old, new in zip(before, after):
        if old.dtype != new.dtype and (len(old.shape) or torch.promote_types(old.dtype, new.dtype) != new.dtype):
            raise Unsupported(f"it changes the dtype of its state from {old.dtype} to {new.dtype}")
        small, large = old.shape[::-1], new.shape[::-1]
        if len(small) > len(large) or any(a not in (1, n) for a, n in zip(small, large)):
            raise Unsupported(f"it changes the shape of its state from {list(old.shape)} to {list(new.shape)}")
