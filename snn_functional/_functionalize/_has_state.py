"""What `functionalize` knows of a layer with memory, and of one that has none of its own: two classes, which the faces extend."""

from typing import Any, TypeVar

import torch
from torch import nn, Tensor

from .._functorch import is_compiling, left_behind, put_back_later
from .._neuron import Neuron
from .._tree import tree_map


T = TypeVar("T")


class HasState(nn.Module):
    """A layer that takes one step of time, and goes on from its last one.

    - `neuron`: whose State it has.
    - `init_hidden`: does it hold its state between calls itself? It is no buffer, and `state_dict()` is without it.
    """

    neuron: Neuron
    init_hidden: bool
    threshold: Tensor
    _stateless = False  # with init_hidden=False: came the last call without a state?

    def __init__(self) -> None:
        super().__init__()
        self._hidden: Any = None
        self._lent = False  # is this another's state, who will put its own back?
        self._watcher: Any = None  # within `watched`: is told of every call

    def reset_mem(self) -> Any:
        """Forget the hidden state. Returns states at rest: zeros that broadcast to any input, a tuple if there are several."""
        self.reset_hidden()
        zeros = [torch.zeros(()) for _ in self.neuron.State.__leaves__]
        return tuple(zeros) if len(zeros) > 1 else zeros[0]

    def reset_hidden(self) -> None:
        """Forget the hidden state: the next input starts at rest."""
        self._hidden = None

    def detach_hidden(self) -> None:
        """Cut the hidden state from the graph, as truncated backpropagation does between chunks."""
        self._hidden = tree_map(torch.Tensor.detach, self._alive())

    def held(self) -> list[Tensor]:
        """The leaves of the hidden state; at rest, a 0-d zero for each."""
        fields = self.neuron.State.__leaves__
        if self._hidden is None:
            like = getattr(self, "threshold", torch.zeros(()))  # your own neuron may have none
            return [like.detach().new_zeros(()) for _ in fields]
        return [getattr(self._hidden, field) for field in fields]

    def hold(self, leaves: list[Tensor]) -> None:
        """Go on from these."""
        self._hidden = self.neuron.State.__rebuild__(leaves, ())

    def go_on(self, hidden: Any) -> None:
        """Hold this state from now on."""
        if self._lent:
            put_back_later(self._set, hidden)
        else:
            self._hidden = hidden

    def lend(self, hidden: Any) -> Any:
        """Go on from this, until `take_back` of what is returned, the state that it had."""
        own = self._hidden
        put_back_later(self._set, hidden, True)
        return own

    def take_back(self, own: Any) -> Any:
        """The end of `lend`. Returns the state that it has come to."""
        found = self._hidden
        put_back_later(self._set, own, False)
        return found

    def _set(self, hidden: Any, lent: bool = True) -> None:
        self._hidden, self._lent = hidden, lent

    def _alive(self) -> Any:
        """The hidden state. Raises RuntimeError for one that a `vmap` has left here, with which nothing can be done any more."""
        if self._left_behind():
            raise RuntimeError(
                f"{type(self).__name__}(init_hidden=True) holds the state of a torch.func.vmap that is over. Forget it by "
                "snn.utils.reset(net). Within vmap begin and end with a reset, or take the state in and out: "
                "step, params, state = snf.functionalize(net)."
            )
        return self._hidden

    def _left_behind(self) -> bool:
        return self._hidden is not None and not is_compiling() and any(map(left_behind, self.held()))

    def _apply(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
        if not self._left_behind():  # which nothing can be done to: whoever uses it will hear
            self._hidden = tree_map(fn, self._hidden)
        return super()._apply(fn, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        # Copies and pickles carry the state's numbers, never its graph, which cannot be copied.
        return self.__dict__ | {"_hidden": tree_map(torch.Tensor.detach, self._alive()), "_stateless": False}

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any) -> None:
        rest, keys = dict(state_dict), [prefix + field for field in self.neuron.State.__leaves__]
        if all(key in rest for key in keys):
            self._hidden = self.neuron.State(*(rest.pop(key).detach().clone() for key in keys))
        super()._load_from_state_dict(rest, prefix, *args, **kwargs)


class TakesSequences(nn.Module):
    """A layer that takes all of time in one call, and keeps nothing: there is no step of it.

    `_watcher`: is told of what it is given, if there is one.
    """

    _watcher: Any = None


def layers(net: nn.Module, kind: type[T]) -> dict[str, T]:
    """The layers of this kind in a network, nested ones too, by name."""
    if not isinstance(net, nn.Module):
        raise TypeError(f"snn.utils takes the network, an nn.Module; got {type(net).__name__}: snn.utils.reset(net).")
    return {name: module for name, module in net.named_modules() if isinstance(module, kind)}
