"""`module(neuron, params)`: a pure neuron, or a chain of them, as an `nn.Module` for all that takes modules."""

from functools import reduce
from typing import Any

import torch
from torch import nn, Tensor

from .._functorch import is_compiling
from .._names import columns
from .._neuron import Neuron
from .._scan import scan
from .._scan._door import length_of
from .._tree import described, named_leaves, partition, tree_leaves, tree_map, Which, with_leaves
from ._misfit import misfit
from ._trees import layers_of, parts, refuse_other_trees


class Scanned(nn.Module):
    """What `module` makes. `neuron`: whose step it scans."""

    def __init__(self, neuron: Neuron, params: Any, learn: Which) -> None:
        super().__init__()
        self.neuron = neuron
        self._like = tree_map(
            lambda leaf: torch.empty_like(leaf, device="meta"), params
        )  # the tree without its numbers
        learned, _ = partition(params, learn)
        for name, leaf in named_leaves(params).items():
            *nodes, last = name.split(".")
            place: nn.Module = self
            for node in nodes:
                if node not in place._modules:
                    place.add_module(node, nn.Module())
                place = place.get_submodule(node)
            value = leaf.detach().clone()
            if name in learned and value.is_floating_point():
                place.register_parameter(last, nn.Parameter(value))
            else:
                place.register_buffer(last, value)

    @property
    def params(self) -> Any:
        """The tree, of the tensors that are in the module now: what the pure functions take."""
        # By attribute: a replica of DataParallel has tensors that are no parameters.
        return with_leaves(
            self._like, {name: reduce(getattr, name.split("."), self) for name in named_leaves(self._like)}
        )

    def init(self, xs: Any) -> Any:
        """The state at rest, for a sequence like this: `neuron.init(params, xs[0])`."""
        if not is_compiling():
            length_of(xs)  # refuses what has no first step; where a state is given, `scan` does
        return self.neuron.init(self.params, tree_map(lambda x: x[0], xs))

    def arguments(self, xs: Any, state: Any = None) -> tuple[Any, Any, Any, Any]:
        """What `scan` takes, to run the same without the module: `spks, state = scan(*model.arguments(xs))`."""
        return self.neuron.step, self.params, self.init(xs) if state is None else state, xs

    def forward(self, xs: Any, state: Any = None, *, return_state: bool = False) -> Any:
        """The outputs over time, from `state` on, at rest if there is none. With `return_state`: `(outputs, state)`."""
        if is_compiling():
            outputs, state = self._scanned(xs, state)
        else:
            try:
                outputs, state = self._scanned(xs, state)
            except (TypeError, ValueError, RuntimeError) as error:
                said = misfit(error, self, xs, "model(xs.to({}))", "model")
                if said is error:
                    raise
                raise said from error
        return (outputs, state) if return_state else outputs

    def _scanned(self, xs: Any, state: Any) -> tuple[Any, Any]:
        return scan(*self.arguments(xs, state))

    def __repr__(self) -> str:
        """A row for each layer: its leaves, with their shapes."""
        learned = dict(self.named_parameters())
        rows, step = [("layer", "learned", "fixed")], self.neuron.step
        layers = parts(step, self._like)
        for path, name, tree in layers:
            cells: tuple[list[str], list[str]] = [], []
            for leaf, x in named_leaves(tree).items():
                full = ".".join(filter(None, (path, leaf)))
                cells[full not in learned].append(f"{leaf or 'params'} {tuple(x.shape)}")
            rows.append((f"{path}  {name}" if path else name, ", ".join(cells[0]), ", ".join(cells[1])))
        lines = columns(rows)
        every = sum(x.numel() for x in tree_leaves(self._like))
        lines.append(f"{sum(p.numel() for p in learned.values()):,} of {every:,} numbers are learned")
        around = repr(step) if layers[0][0] and not layers_of(step) else ""  # a modifier of a whole chain
        return "\n  ".join([f"{type(self).__name__}({around}", *lines]) + "\n)"


def module(neuron: Neuron, params: Any, *, learn: Which = None) -> Scanned:
    """`neuron` (a chain too) and `params` as an `nn.Module` whose forward is `scan`: the way from the core to torch's own tools,
    as `functionalize` is the way back.

        net = chain(linear, leaky, linear, leaky)
        model = module(net, params, learn=["weight", "bias", "3.beta"])
        spks = model(xs)                                        xs [T, batch, ...]
        spks, state = model(xs, state, return_state=True)       goes on from state, and so does its gradient
        state = optree.tree_map(torch.Tensor.detach, state)     after a backward: else the next goes through the same graph again
        params = model.params                                   the tree, as it is now

    - `learn`: which leaves are learned, as in `partition`; None for all. They are the module's parameters, under the dotted names of
      `named_leaves`; the others are buffers. Both are copies, in `state_dict()`, and go where `.to` sends them.

    So it works with `torch.optim` and its schedulers, `clip_grad_norm_`, `swa_utils.AveragedModel`, DistributedDataParallel,
    `torch.autocast` and GradScaler; it copies, and pickles where the neuron does.

    DistributedDataParallel wants a gradient for each parameter: what the step does not use is left out of `learn`, or it is made with
    `find_unused_parameters=True`. `print(model)` shows each layer's leaves, and which are learned.

    Raises TypeError for what is no neuron, and for params that are not its own (of a chain too few, too many or in another order) or no
    tree of tensors; ValueError for a name in `learn` that no leaf has, and where one tensor
    stands at two leaves, which a module could not keep as one.

    >>> model = module(leaky, LeakyParams(beta=0.9), learn="beta")
    >>> [name for name, _ in model.named_parameters()], list(model.state_dict())
    (['beta'], ['beta', 'threshold'])
    >>> model(torch.full((5, 1, 3), 0.4))[:, 0, 0]
    tensor([0., 0., 1., 0., 0.], grad_fn=<SelectBackward0>)
    """
    if not isinstance(neuron, Neuron):
        raise TypeError(
            f"module(neuron, params): neuron is a bundle, leaky or chain(linear, leaky), but {described(neuron)} came."
        )
    refuse_other_trees("module(neuron, params)", neuron, params)
    for leaf in tree_leaves(params):
        if not isinstance(leaf, Tensor):
            raise TypeError(f"module(neuron, params): every leaf of params is a tensor, but {described(leaf)} came.")
    first: dict[int, str] = {}
    for name, leaf in named_leaves(params).items():
        if (other := first.setdefault(id(leaf), name)) != name:
            raise ValueError(
                f"module(neuron, params): {other} and {name} are one tensor. Two leaves are learned apart: give one of them .clone()."
            )
    return Scanned(neuron, params, learn)
