"""Reading a step at the arguments it is given, as flat functions of leaves, without leaving a trace in what it reaches."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import kernels
from .._functorch import traced
from .._identity import Held, identify, Identity, PLAIN as PLAIN, undone
from .._tree import tree_flatten, tree_unflatten
from ..kernels import Form, Source, Tape, Unsupported, Watch
from ._loop import Step


class Arguments(NamedTuple):
    """A step and the trees it is called with, flat. The tensors that it reaches beside them, `held`, count as params."""

    step: Step
    what: Identity
    params: list[Tensor]
    states: list[Tensor]
    inputs: list[Tensor]
    trees: tuple[Any, Any, Any]
    device: torch.device

    @property
    def held(self) -> list[Tensor]:
        return held(self.what)


class Captured:
    """A step as a tracer has it, whose tensors have no numbers. `what`: what it reaches beside its arguments."""

    def __init__(self, function: Step, what: Identity) -> None:
        self.function, self.what = function, what

    def __call__(self, params: Any, state: Any, input: Any) -> Any:
        return self.function(params, state, input)


def held(what: Identity) -> list[Tensor]:
    """The tensors that a step reaches, subclasses apart, which compute in their own way."""
    return [x for x in what.tensors if type(x) in PLAIN or traced(x)]


class Read(NamedTuple):
    """What a step did, and the structure of what it gave."""

    tape: Tape
    outputs: Any


def read(arguments: Arguments, states: Sequence[Form]) -> Read:
    """One step, from states of these forms on. Raises Unsupported where it cannot be read."""
    if arguments.what.opaque:
        raise Unsupported(f"it {arguments.what.opaque}")
    structure: list[Any] = []
    function = flat(arguments, structure)
    leaves = [*map(form, (*arguments.params, *arguments.held)), *states, *map(moment, arguments.inputs)]
    # What is remembered of a step is so for all calls. One that is read again at each may ask whether gradients are on.
    always = torch.is_grad_enabled() or not arguments.what.loose
    with torch.inference_mode(False), torch.set_grad_enabled(always):
        tape = kernels.read(Source(function, around=undisturbed(arguments.what.hold)), leaves)
    return Read(tape, structure[0])


def form(leaf: Tensor) -> Form:
    return Form(leaf.dtype, _sizes(leaf.shape), isinstance(leaf, torch.nn.Parameter))


def moment(x: Tensor) -> Form:
    """One step of an input."""
    return Form(x.dtype, _sizes(x.shape[1:]))


def _sizes(shape: torch.Size) -> torch.Size:
    """As numbers. To a tracer they may be symbols: then its graph is for these sizes."""
    return torch.Size(map(int, shape))


def flat(arguments: Arguments, structure: list[Any] | None = None) -> Callable[..., Sequence[Tensor]]:
    """`function(*params, *held, *states, *inputs) -> (*outputs, *states)`; the structure of the outputs is put into `structure`."""
    step, reached, device = arguments.step, arguments.held, arguments.device
    counts = [len(arguments.params), len(reached), len(arguments.states), len(arguments.inputs)]
    ends = [sum(counts[: i + 1]) for i in range(4)]
    p_tree, s_tree, x_tree = arguments.trees

    def function(*leaves: Tensor) -> Sequence[Tensor]:
        params, standing, states, inputs = (leaves[end - count : end] for end, count in zip(ends, counts))
        given = [tree_unflatten(tree, part) for tree, part in zip((p_tree, s_tree, x_tree), (params, states, inputs))]
        exchanged: dict[int, Tensor] = {id(x): y for x, y in zip(reached, standing)}
        with Watch(exchanged, device):
            returned = step(*given)
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise Unsupported("it does not return (output, state)")
        (outputs, tree), (new, same) = map(tree_flatten, returned)
        if same != s_tree:
            raise Unsupported(f"it changes the structure of its state from {s_tree} to {same}")
        if not all(type(x) in PLAIN for x in (*outputs, *new)):
            raise Unsupported("it returns something that is not a tensor")
        if structure is not None:
            structure[:] = [tree]
        results: list[Tensor] = [*outputs, *new]
        return [exchanged.get(id(x), x) for x in results]

    return function


def undisturbed(hold: Callable[[], list[Held]]) -> Callable[[], Any]:
    """A context for a reading: what the step writes to is put back, and then the step is refused."""

    @contextlib.contextmanager
    def context() -> Iterator[None]:
        with undone(hold()) as changed:
            yield
        if changed:
            raise Unsupported(f"it changes {changed[0]}")

    return context


def source(arguments: Arguments, used: Sequence[int], gives: Sequence[int], states: Sequence[Form]) -> Source:
    """The step as a function of the leaves that it reads, the others after them, to some of its results: for its derivatives."""
    function = flat(arguments)
    leaves = [*map(form, (*arguments.params, *arguments.held)), *states, *map(moment, arguments.inputs)]
    rest = [i for i in range(len(leaves)) if i not in used]
    order = [*used, *rest]
    place = [order.index(i) for i in range(len(leaves))]

    def some(*given: Tensor) -> list[Tensor]:
        results = function(*(given[i] for i in place))
        return [results[i] for i in gives]

    return Source(some, tuple(leaves[i] for i in rest), undisturbed(arguments.what.hold))


def obstacle(step: Step, params: Any, state: Any, input: Any) -> str | None:
    """Why one step at these trees is not pointwise; None if it is. Nothing is remembered."""
    (ps, p_tree), (ss, s_tree), (xs, x_tree) = map(tree_flatten, (params, state, input))
    what = identify(step, params, state, input)
    steps = [x.expand(1, *x.shape) for x in xs]
    arguments = Arguments(
        step, what, ps, ss, steps, (p_tree, s_tree, x_tree), xs[0].device if xs else torch.device("cpu")
    )
    try:
        kernels.program_of(read(arguments, [form(s) for s in ss]).tape, exact=False, prefix="k")
    except Unsupported as reason:
        return str(reason)
    return None
