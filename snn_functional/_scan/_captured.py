"""`scan` under `torch.compile`: one node of the graph, with the step as a graph beside it. See README.md in this folder.

The compiler reads Python, and would read a loop over time step by step. So it is shown one step only, as it is shown the body of a loop:
a higher-order operation, whose node in the graph has the step, itself a graph, and the tensors that it takes. What calls that node has no
Python of the user's before it any more; it calls `scan` with that graph for a step, on tensors without numbers, and the scan runs as any
other, in kernels, stages or the loop, under all transforms that the compiler has left around it. The kernels are operations
for such a tracer (`_operations.py`). What the step reaches, the compiler has read and guards.

The step's graph tells by marks what is an input, a state or a result: in the compiler's reading, they give a result the shape that it
has over time.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.variables import higher_order_ops

from .._identity import identify, Identity
from .._tree import tree_flatten, tree_unflatten
from ._door import admit
from ._kinds import run
from ._loop import pair, same_form, Step
from ._reading import Captured


def exported(step: Step, *trees: Any) -> Captured:
    """The step of a scan that `torch.export` runs."""
    if isinstance(step, Captured):
        return step
    what = identify(step, *trees)
    return Captured(step, what._replace(key=None, loose="it is exported"))


uncompiled: Any = torch.compiler.disable(run, reason="this scan is a loop that no compiler reads")


def in_graph(
    step: Step, params: Any, state: Any, inputs: Any, kind: str, reverse: bool, length: int | None
) -> tuple[Any, Any]:
    """What `scan` returns, where the compiler reads it."""
    if kind == "checkpointed":
        return uncompiled(step, params, state, inputs, kind, reverse, length)
    T = admit(step, params, state, inputs, length)
    ss, s_tree = tree_flatten(state)
    xs, x_tree = tree_flatten(inputs)

    def one() -> tuple[Any, Any]:
        before = tree_unflatten(s_tree, [_state(s) for s in ss])
        output, new = pair(step(params, before, tree_unflatten(x_tree, [_moment(x) for x in xs])), step)
        same_form(before, new, step, broadcast=True)
        (ys, y_tree), (news, _) = tree_flatten(output), tree_flatten(new)
        return tree_unflatten(y_tree, [_over_time(y, T) for y in ys]), tree_unflatten(s_tree, [_last(s) for s in news])

    return OPERATION(one, step, params, state, inputs, kind=kind, reverse=reverse, length=T)


# The marks.


def _state(x: Tensor) -> Tensor:
    return x.clone()


def _moment(x: Tensor) -> Tensor:
    return x[0].clone()


def _over_time(y: Tensor, T: int) -> Tensor:
    return y.expand(T, *y.shape).clone(memory_format=torch.contiguous_format)


def _last(x: Tensor) -> Tensor:
    return x.clone()


MARKS = _state, _moment, _over_time, _last


class Variable(higher_order_ops.WrapHigherOrderVariable):
    """What the compiler does where it meets the operation. It refuses a step that writes to what it did not make."""

    _HOP_NAME = "snn_functional.scan"
    supports_input_mutation = False
    supports_aliasing = True  # a look at it meets what transforms have wrapped; all marks copy

    def _call_function(self, tx: Any, args: Any, kwargs: Any) -> Any:
        operands, _, shapes, body, _, _, results, *_ = self.create_wrapped_node(tx, args[0], [], {}, "scan")
        kwargs = {name: x.as_proxy() for name, x in kwargs.items()}
        call: Any = higher_order_ops._call_function_with_auto_output_flattening
        return call(tx, self.value, operands, kwargs, shapes, body, results)


class Operation(torch._ops.HigherOrderOperator):
    def __call__(self, step: Any, *operands: Any, **how: Any) -> Any:
        if isinstance(step, torch.fx.GraphModule):
            return _run(step, operands, **how)
        return uncompiled(*operands, **how)  # the compiler cannot read this step, and has left the call as it stands


for mark in MARKS:
    torch.compiler.allow_in_graph(mark)
higher_order_ops._hop_name_to_variable_class["snn_functional_scan"] = Variable
OPERATION = Operation("snn_functional_scan")


def _run(graph: Any, operands: Sequence[Any], kind: str, reverse: bool, length: Any) -> tuple[Tensor, ...]:
    """A scan of the step that this graph is. Its marks are cut out, and what is left takes (*params, *states, *inputs) of one step."""
    nodes = graph.graph.nodes
    given = dict(zip((x for x in nodes if x.op == "placeholder"), operands))
    marked = {mark: [x for x in nodes if x.target is mark] for mark in MARKS}
    begin, results = (*marked[_state], *marked[_moment]), (*marked[_over_time], *marked[_last])
    read = lambda x, user: user.target not in MARKS or (user in results and x is user.args[0])
    used = [x for x in given if any(read(x, user) for user in x.users)]
    new, place = torch.fx.Graph(), dict[Any, Any]()
    for x in (*used, *begin):
        # What is no tensor is a size, which the step's graph holds as a number.
        place[x] = int(given[x]) if x in given and not isinstance(given[x], Tensor) else new.placeholder(x.name)
    for x in nodes:
        if x not in place and x.op not in ("placeholder", "output"):
            place[x] = place[x.args[0]] if x in results else new.node_copy(x, place.__getitem__)
    new.output(tuple([place[x] for x in marked[mark]] for mark in (_over_time, _last)))
    function = torch.fx.GraphModule(graph, new)

    def once(params: Any, state: Any, input: Any) -> Any:
        outputs, last = function(*params, *state, *input)
        return tuple(outputs), tuple(last)

    step = Captured(once, Identity(None, "it was captured", None, [], list))
    params = tuple(given[x] for x in used if isinstance(given[x], Tensor))
    state, xs = (tuple(given[x.args[0]] for x in marked[mark]) for mark in (_state, _moment))
    outputs, last = run(step, params, state, xs, kind, reverse, length)
    found = dict(zip(results, (*outputs, *last)))
    # Others are what the step made on its way, which nobody asks for: all that it wrote is as it was before.
    return tuple(found[x] if x in found else torch.zeros(()) for x in graph.graph.output_node().args[0])
