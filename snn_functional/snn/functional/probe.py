"""Monitors: what passes through the layers of a network, recorded at each call.

    monitor = probe.OutputMonitor(net, snn.Leaky)
    for x in xs:
        net(x)
    monitor.records             everything, in the order it came
    monitor["lif1"]             what the layer `net.lif1` gave; monitor[3] is records[3]
    monitor.monitored_layers    the layers' names
    monitor.remove_hooks()      the end; also when the monitor itself is gone

Records are what the layers gave or took, graph and all; `lambda x: x.detach()` as the function keeps the numbers alone. A tuple of
one is recorded as that one. The gradient monitors record at `.backward()`; torch.func's transforms do not pass by their hooks.

- `net`: its modules are searched, nested ones and itself included.
- `instance`: the class (or a tuple of classes) of the layers to be watched; None: the class of `net`.

Raises TypeError for an `instance` that is no class, ValueError where no layer is of that class.

Source: SpikingJelly's monitors, as they are in snnTorch 1.0.0.
"""

import weakref
from collections.abc import Callable
from typing import Any

from torch import nn

from .._stateful import Stateful


def unpack_len1_tuple(x: Any) -> Any:
    """The element of a tuple of one; anything else as it is."""
    return x[0] if isinstance(x, tuple) and len(x) == 1 else x


def _same(x: Any) -> Any:
    return x


class BaseMonitor:
    """What the monitors share: the records, by number and by layer, and the switches."""

    def __init__(self) -> None:
        self.hooks: list[Any] = []
        self.monitored_layers: list[str] = []
        self.records: list[Any] = []
        self.name_records_index: dict[str, list[int]] = {}
        self._enable = True

    def __getitem__(self, i: int | str) -> Any:
        """`records[i]`, or the list of what the layer called `i` gave."""
        if isinstance(i, int):
            return self.records[i]
        if i not in self.name_records_index:
            raise KeyError(f"{i!r} is not watched; monitor[name] takes one of {self.monitored_layers}, or a number.")
        return [self.records[index] for index in self.name_records_index[i]]

    def clear_recorded_data(self) -> None:
        """Forget the records; the layers stay watched."""
        self.records.clear()
        for indices in self.name_records_index.values():
            indices.clear()

    def enable(self) -> None:
        """Record from now on."""
        self._enable = True

    def disable(self) -> None:
        """Record nothing until `enable()`."""
        self._enable = False

    def is_enable(self) -> bool:
        """Does it record?"""
        return self._enable

    def remove_hooks(self) -> None:
        """Leave the network; the records stay."""
        for hook in self.hooks:
            hook.remove()
        self.hooks.clear()

    def __del__(self) -> None:
        self.remove_hooks()

    def _watch(self, net: nn.Module, instance: Any, register: str, read: Callable[..., Any]) -> None:
        """Record `read(*what the hook gets)` of every layer of that class; `register` is the hook's kind."""
        classes = type(net) if instance is None else instance
        if not all(isinstance(c, type) for c in (classes if isinstance(classes, tuple) else (classes,))):
            raise TypeError(
                f"{type(self).__name__}(instance={type(instance).__name__}(...)): expected the class of the layers to watch, or a "
                f"tuple of classes: instance={type(instance).__name__}."
            )
        layers = {name: layer for name, layer in net.named_modules() if isinstance(layer, classes)}
        if not layers:
            held = sorted({type(layer).__name__ for layer in net.modules()})
            raise ValueError(f"{type(self).__name__}: no layer of net is a {classes}; it is made of {held}.")
        for name, layer in layers.items():
            self.monitored_layers.append(name)
            self.name_records_index[name] = []
            self.hooks.append(getattr(layer, register)(_hook(weakref.ref(self), name, read)))


def _hook(reference: Any, name: str, read: Callable[..., Any]) -> Callable[..., None]:
    def hook(*seen: Any) -> None:
        monitor = reference()  # weak: the network would keep it alive, and it would record for nobody
        if monitor is not None and monitor.is_enable():
            value = read(*seen)
            monitor.name_records_index[name].append(len(monitor.records))
            monitor.records.append(value)

    return hook


class OutputMonitor(BaseMonitor):
    """Records `function_on_output(output)` of each layer: spikes, or `(spk, ..., mem)` where the layer gives that."""

    def __init__(self, net: nn.Module, instance: Any = None, function_on_output: Callable[[Any], Any] = _same) -> None:
        super().__init__()
        self.function_on_output = function_on_output
        read = lambda layer, args, output: function_on_output(unpack_len1_tuple(output))
        self._watch(net, instance, "register_forward_hook", read)


class InputMonitor(BaseMonitor):
    """Records `function_on_input(input)` of each layer; all its positional arguments as a tuple, where there are several."""

    def __init__(self, net: nn.Module, instance: Any = None, function_on_input: Callable[[Any], Any] = _same) -> None:
        super().__init__()
        self.function_on_input = function_on_input
        read = lambda layer, args, output: function_on_input(unpack_len1_tuple(args))
        self._watch(net, instance, "register_forward_hook", read)


class AttributeMonitor(BaseMonitor):
    """Records `function_on_attribute(layer.<attribute_name>)`, as it is before (`pre_forward=True`) or after each call.

    Any attribute will do: a hidden state ("mem"), a parameter ("beta"), a property ("reset_mechanism").

    Raises ValueError for a state of a layer that keeps none, being in explicit mode.
    """

    def __init__(
        self, attribute_name: str, pre_forward: bool, net: nn.Module, instance: Any = None,
        function_on_attribute: Callable[[Any], Any] = _same,
    ) -> None:  # fmt: skip
        super().__init__()
        self.attribute_name = attribute_name
        self.function_on_attribute = function_on_attribute
        read = lambda layer, *_: function_on_attribute(getattr(layer, attribute_name))
        self._watch(net, instance, "register_forward_pre_hook" if pre_forward else "register_forward_hook", read)
        for name in self.monitored_layers:
            layer = net.get_submodule(name)
            if (
                isinstance(layer, Stateful)
                and attribute_name in layer.neuron.State.__leaves__
                and not layer.init_hidden
            ):
                self.remove_hooks()
                raise ValueError(
                    f"{name}.{attribute_name} is passed in and out, not kept (init_hidden=False). It is in what the layer gives: "
                    "OutputMonitor(net, ...), or make the layer with init_hidden=True."
                )


class GradInputMonitor(BaseMonitor):
    """Records `function_on_grad_input(gradient)` with respect to each layer's input, at each backward."""

    def __init__(
        self, net: nn.Module, instance: Any = None, function_on_grad_input: Callable[[Any], Any] = _same
    ) -> None:
        super().__init__()
        self.function_on_grad_input = function_on_grad_input
        read = lambda layer, grad_input, grad_output: function_on_grad_input(unpack_len1_tuple(grad_input))
        self._watch(net, instance, "register_full_backward_hook", read)


class GradOutputMonitor(BaseMonitor):
    """Records `function_on_grad_output(gradient)` with respect to each layer's output, at each backward."""

    def __init__(
        self, net: nn.Module, instance: Any = None, function_on_grad_output: Callable[[Any], Any] = _same
    ) -> None:
        super().__init__()
        self.function_on_grad_output = function_on_grad_output
        read = lambda layer, grad_input, grad_output: function_on_grad_output(unpack_len1_tuple(grad_output))
        self._watch(net, instance, "register_full_backward_hook", read)
