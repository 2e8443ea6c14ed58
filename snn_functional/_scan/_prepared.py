"""What is known of a step at given shapes: its plan, and what becomes of each leaf and result. Learned once, then looked up."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import kernels
from .._functorch import autocast, intercepted, is_compiling, transforms, wrapping
from .._identity import identify, Registry
from .._tree import tree_flatten
from ..kernels import broadcast, Form, Later, NoCompiler, Node, Plan, Role, Signature, Unsupported
from ._door import admit
from ._loop import Step
from ._primitive import HIDDEN
from ._reading import Arguments, form, held, PLAIN, read, source


class Result(NamedTuple):
    """An output or a last state. `kernel`: its place among the results of the kernel, None where it is a leaf passed on; `leaf`:
    which one. `shape`: what the loop gives for one step."""

    kernel: int | None
    leaf: int | None
    shape: torch.Size


class Prepared(NamedTuple):
    """A step at given shapes, past the door.

    - `plan`: of what it computes, None where all it does is to pass things on.
    - `used`: which of the leaves (params, held tensors, states, inputs) that takes, in its order; `gives`: which of the step's results.
    - `plain`: are all results the kernel's, and as large as the lanes?
    - `lanes`: the shape of one step of those leaves together. `states`: shapes and dtypes of the states after the first step.
    """

    plan: Plan | None
    used: tuple[int, ...]
    gives: tuple[int, ...]
    T: int
    device: torch.device
    lanes: torch.Size
    states: tuple[Form, ...]
    outputs: tuple[Result, ...]
    last: tuple[Result, ...]
    plain: bool
    tree: Any

    def leaves(self, every: list[Tensor]) -> list[Tensor]:
        """The leaves of the kernel, the states as they are after the first step's broadcast, everything over all lanes."""
        if self.plan is None:
            return []
        slots, lanes, out = self.plan.signature.leaves, self.lanes, []
        for i, role, dtype in zip(self.used, slots.roles, slots.dtypes):
            x = _over(every[i], lanes) if role is Role.TIMED else self._there(every[i])
            if role is Role.STATE:
                x = x if x.dtype == dtype else x.to(dtype)
                x = x if x.shape == lanes else x.expand(lanes)
            out.append(x)
        return out

    def _there(self, leaf: Tensor) -> Tensor:
        """Numbers come along to the device of the others."""
        return leaf if leaf.device == self.device else leaf.to(self.device, non_blocking=True)

    def results(
        self, found: Sequence[Tensor], leaves: list[Tensor], params: int, states: int
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Outputs and last states: those of the kernel, from all lanes back to the shapes that the loop gives, and what is passed on."""
        if self.plain:
            return list(found[: len(self.outputs)]), list(found[len(self.outputs) :])
        outputs = []
        for result in self.outputs:
            if result.kernel is not None:
                outputs.append(_shrink(found[result.kernel], result.shape, 1))
            else:
                assert result.leaf is not None
                x = leaves[result.leaf]
                x = x if result.leaf >= params + states else x.expand(self.T, *x.shape)
                outputs.append(x.clone(memory_format=torch.contiguous_format))
        last = []
        for result in self.last:
            if result.kernel is None:
                assert result.leaf is not None
                last.append(leaves[result.leaf])
            else:
                last.append(_shrink(found[result.kernel], result.shape, 0))
        return outputs, last


class FirstDiffers(Unsupported):
    """The step has a kernel from the second time step on: the state that it begins with is of another form."""


_known: Registry[Any] = Registry(4096)


class Prepare(NamedTuple):
    """What `prepare` returns: what is known, the kernel's leaves, all leaves, and the step for what has still to be read of it."""

    known: Prepared
    leaves: list[Tensor]
    every: list[Tensor]
    counts: tuple[int, int]
    source: Later
    tree: Any
    loose: str | None

    def derivatives(self) -> set[str]:
        """What is done to the leaves. A step whose derivative has no kernel is refused before it runs."""
        done = wrapping(self.leaves)
        if self.known.plan is None:
            return done
        if "tracked" in done:
            self.known.plan.pullback(self.source)
        if "dual" in done:
            self.known.plan.tangent(self.source)
        if done and sum(level in ("Grad", "Jvp") for level in transforms()) > 1:
            if not self.known.plan.faithful(self.source):
                raise Unsupported(f"it {HIDDEN}")
        return done


def prepare(step: Step, params: Any, state: Any, inputs: Any, length: int | None) -> Prepare:
    """What is known of a step at these shapes, and its leaves. Raises Unsupported with the reason why it has no kernel here."""
    _refuse_place()
    if not callable(step):
        admit(step, params, state, inputs, length)
    what = identify(step, params, state, inputs)
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
            try:
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
    # Asked for only where something of the step has not been read yet.
    later = lambda: source(
        Arguments(step, what, ps, ss, xs, trees, entry.device), entry.used, entry.gives, entry.states
    )
    every = every if len(given) + len(ss) + len(xs) == len(every) else [*given, *ss, *xs]
    return Prepare(entry, entry.leaves(every), every, (len(given), len(ss)), later, s_tree, what.loose)


def _first(
    step: Step, what: Any, ps: list[Tensor], ss: list[Tensor], xs: list[Tensor], trees: Any, length: int
) -> Prepared:
    _refuse_leaves([*ps, *held(what), *ss, *xs])
    device = _place([*ps, *ss, *xs])
    kernels.ready(device.type)
    if device.type != "cpu" and autocast() and any(x.dtype in (torch.float16, torch.bfloat16) for x in (*ps, *ss, *xs)):
        raise Unsupported("autocast is on, and a leaf is in half precision")
    return _prepare(Arguments(step, what, ps, ss, xs, trees, device), length)


def _refuse_place() -> None:
    if is_compiling():
        raise Unsupported("torch.compile is tracing")
    if intercepted():
        raise Unsupported("a dispatch or function mode is active, which sees operations one by one")
    active = transforms()
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


def _prepare(arguments: Arguments, length: int) -> Prepared:
    given = [*arguments.params, *arguments.held]
    params, states = len(given), len(arguments.states)
    before = tuple(form(s) for s in arguments.states)
    tape, tree = read(arguments, before)
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
    return _planned(arguments, tape, tree, params, states, after, length)


def _refuse_change(before: Sequence[Form], after: Sequence[Form]) -> None:
    for old, new in zip(before, after):
        if old.dtype != new.dtype and (len(old.shape) or torch.promote_types(old.dtype, new.dtype) != new.dtype):
            raise Unsupported(f"it changes the dtype of its state from {old.dtype} to {new.dtype}")
        small, large = old.shape[::-1], new.shape[::-1]
        if len(small) > len(large) or any(a not in (1, n) for a, n in zip(small, large)):
            raise Unsupported(f"it changes the shape of its state from {list(old.shape)} to {list(new.shape)}")


def _planned(
    arguments: Arguments, tape: Any, tree: Any, params: int, states: int, after: tuple[Form, ...], length: int
) -> Prepared:
    """The plan of what is computed. What is only passed on does not come into it, nor does a leaf that nothing reads."""
    dtypes = [x.dtype for x in tape.leaves], [x.dtype for x in tape.outputs]
    whole = Signature.of((params, states, len(arguments.inputs)), *dtypes)
    roles, (_, starts, _), (outputs, new) = whole.leaves.roles, whole.leaves.places, whole.results.split(tape.outputs)
    place = {leaf: i for i, leaf in enumerate(tape.leaves)}
    computed = {x for node in tape.nodes for x in (*node.args, *node.kwargs.values()) if isinstance(x, Node)}
    constant = {i for i, x in zip(starts, new) if x is tape.leaves[i]}
    still = lambda i: roles[i] is not Role.STATE or i in constant
    passed = [place[x] if x in place and still(place[x]) else None for x in outputs]
    # A state that never changes, and that nothing computes with, is not the kernel's.
    idle = {i for i in constant if tape.leaves[i] not in computed}
    ends = [i if i in idle else None for i in starts]
    own_outputs = [j for j, i in enumerate(passed) if i is None]
    own_states = [s for s, i in enumerate(ends) if i is None]
    gives = (*own_outputs, *(len(outputs) + s for s in own_states))
    small = tape.giving(tuple(tape.outputs[i] for i in gives))
    used = sorted({*small.read_leaves(), *(starts[s] for s in own_states)})
    shapes = [tape.leaves[i].shape for i in used]
    try:
        lanes = broadcast(*shapes)
    except RuntimeError:
        shown = ", ".join(str(list(shape)) for shape in dict.fromkeys(shapes))
        raise Unsupported(f"what it computes with has shapes that do not go together: {shown}") from None
    for x in small.outputs:
        if len(x.shape) > len(lanes) or any(a not in (1, n) for a, n in zip(x.shape[::-1], lanes[::-1])):
            raise Unsupported(f"it returns shape {list(x.shape)}, of arguments that together have {list(lanes)}")
    params, states, inputs = map(len, whole.leaves.only(used).parts)
    if small.outputs and not used:
        raise Unsupported("it reads none of its arguments")
    plan = Plan(small.with_leaves(used), (params, states, inputs)) if small.outputs else None
    in_kernel = {j: n for n, j in enumerate(own_outputs)}
    state_in_kernel = {s: len(own_outputs) + n for n, s in enumerate(own_states)}
    results = tuple(Result(in_kernel.get(j), passed[j], x.shape) for j, x in enumerate(outputs))
    last = tuple(Result(state_in_kernel.get(s), ends[s], x.shape) for s, x in enumerate(after))
    plain = all(x.kernel is not None and x.shape == lanes for x in (*results, *last))
    return Prepared(plan, tuple(used), gives, length, arguments.device, lanes, after, results, last, plain, tree)


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
