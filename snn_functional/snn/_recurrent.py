"""The faces with weights of their own: a layer of torch.nn holds them, and the neuron's Params take them as connections."""

from typing import Any

import torch
from torch import nn, Tensor

from .._connections import Conv2d, Linear
from .._tree import described
from ..neurons import rleaky, rsynaptic, sconv2dlstm, slstm
from ._face import stateful
from ._stateful import Stateful


class _Recurrent(Stateful):
    """Feeds its spikes back: through `recurrent`, a Linear or Conv2d, or with `all_to_all=False` each to itself through `V`."""

    def _keep(self, numbers: dict[str, Any], learned: set[str], options: dict[str, Any]) -> None:
        self.all_to_all, self.learn_recurrent = options["all_to_all"], options["learn_recurrent"]
        self.linear_features = options["linear_features"]
        self.conv2d_channels, self.kernel_size = options["conv2d_channels"], options["kernel_size"]
        recurrent = _feedback(type(self).__name__, options)
        if recurrent is None:
            learned = learned | ({"V"} if self.learn_recurrent else set())
        else:
            numbers = {name: x for name, x in numbers.items() if name != "V"}
            self.recurrent = recurrent.requires_grad_(bool(self.learn_recurrent))
        super()._keep(numbers, learned, options)

    def _in_one_kernel(self) -> bool:
        return not self.all_to_all and super()._in_one_kernel()

    def _leaf(self, name: str, dtype: torch.dtype | None) -> Any:
        return _connection(self.recurrent) if name == "V" and self.all_to_all else super()._leaf(name, dtype)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any) -> None:
        # snnTorch saves V twice.
        rest = {key: x for key, x in state_dict.items() if self.all_to_all or key != prefix + "recurrent.V"}
        super()._load_from_state_dict(rest, prefix, *args, **kwargs)


def _feedback(name: str, options: dict[str, Any]) -> nn.Linear | nn.Conv2d | None:
    features, channels, kernel = (options[key] for key in ("linear_features", "conv2d_channels", "kernel_size"))
    given = f"linear_features={features}, conv2d_channels={channels}, kernel_size={kernel}"
    V = options["V"]
    if callable(V) and not isinstance(V, Tensor):  # a layer, a connection, or the class of one
        raise TypeError(
            f"{name}(V=...): V is a number, or one for each neuron with all_to_all=False, but {described(V)} came. The layer that spikes "
            f"go back through is made of a number of neurons, {name}(..., linear_features=64), or by conv2d_channels and kernel_size; its "
            "weights are then in layer.recurrent. Through any other: snf.recurrent(snf.leaky, through)."
        )
    for key, size in (("linear_features", features), ("conv2d_channels", channels)):
        if size and (isinstance(size, bool) or not hasattr(size, "__index__") or size < 1):
            raise TypeError(f"{name}({key}={size!r}): expected a whole number, 1 or more.")
    if not options["all_to_all"]:
        if features or channels or kernel:
            raise TypeError(
                f"{name}(all_to_all=False, {given}): one to one there is only V. Give all_to_all=True, or none of the three."
            )
        return None
    if bool(features) == bool(channels or kernel) or bool(channels) != bool(kernel):
        raise TypeError(
            f"{name}({given}): the feedback takes either linear_features, the number of neurons, or both conv2d_channels and "
            f"kernel_size; or V for each neuron to itself, with all_to_all=False."
        )
    if features:
        return nn.Linear(features, features)
    return nn.Conv2d(channels, channels, kernel, padding=_padding(kernel))


def _padding(kernel: Any) -> tuple[int, int]:
    sizes = (kernel, kernel) if hasattr(kernel, "__index__") else kernel
    if not (
        isinstance(sizes, (tuple, list)) and len(sizes) == 2 and all(hasattr(n, "__index__") and n > 0 for n in sizes)
    ):
        raise TypeError(f"kernel_size={kernel!r}: expected a whole number, as 3, or two of them, height and width.")
    height, width = sizes
    if height % 2 == 0 or width % 2 == 0:
        raise ValueError(
            f"kernel_size={kernel}: an even kernel changes the size of what it is given. Take an odd one, as 3."
        )
    return height // 2, width // 2


def _connection(layer: Any) -> Linear | Conv2d:
    """The weights of a layer as a connection; nothing is checked, they may be under a transform."""
    kind = Conv2d if isinstance(layer, nn.Conv2d) else Linear
    return kind.__rebuild__([layer.weight, _bias(layer.bias, layer.weight)], ())  # pyright: ignore[reportAttributeAccessIssue]


def _bias(bias: Tensor | None, weight: Tensor) -> Tensor:
    return weight.new_zeros(()) if bias is None else bias


def _rleaky(
    beta, V=1.0, all_to_all=True, linear_features=None, conv2d_channels=None, kernel_size=None, threshold=1.0, spike_grad=None,
    surrogate_disable=False, init_hidden=False, inhibition=False, learn_beta=False, learn_threshold=False, learn_recurrent=True,
    reset_mechanism="subtract", state_quant=False, output=False, reset_delay=True,
): ...  # fmt: skip


def _rsynaptic(
    alpha, beta, V=1.0, all_to_all=True, linear_features=None, conv2d_channels=None, kernel_size=None, threshold=1.0,
    spike_grad=None, surrogate_disable=False, init_hidden=False, inhibition=False, learn_alpha=False, learn_beta=False,
    learn_threshold=False, learn_recurrent=True, reset_mechanism="subtract", state_quant=False, output=False, reset_delay=True,
): ...  # fmt: skip


def _slstm(
    input_size, hidden_size, bias=True, threshold=1.0, spike_grad=None, surrogate_disable=False, init_hidden=False,
    inhibition=False, learn_threshold=False, reset_mechanism="none", state_quant=False, output=False,
): ...  # fmt: skip


def _sconv2dlstm(
    in_channels, out_channels, kernel_size, bias=True, max_pool=0, avg_pool=0, threshold=1.0, spike_grad=None,
    surrogate_disable=False, init_hidden=False, inhibition=False, learn_threshold=False, reset_mechanism="none",
    state_quant=False, output=False,
): ...  # fmt: skip


class RLeaky(_Recurrent, stateful(rleaky, "RLeaky", signature=_rleaky)):
    __doc__ = f"""{_Recurrent.__doc__}

    {rleaky.Params.__doc__}
    """


class RSynaptic(_Recurrent, stateful(rsynaptic, "RSynaptic", signature=_rsynaptic)):
    __doc__ = f"""{_Recurrent.__doc__}

    {rsynaptic.Params.__doc__}
    """


class SLSTM(stateful(slstm, "SLSTM", numbers={"threshold": 1.0}, signature=_slstm)):
    """`snntorch.SLSTM` over `slstm_step`: `input_` (batch, input_size), states and spikes (batch, hidden_size).

    spk, syn, mem = layer(input_, syn, mem)
    """

    pointwise = False

    def _keep(self, numbers: dict[str, Any], learned: set[str], options: dict[str, Any]) -> None:
        self.input_size, self.hidden_size, self.bias = (options[k] for k in ("input_size", "hidden_size", "bias"))
        self.lstm_cell = nn.LSTMCell(self.input_size, self.hidden_size, bias=self.bias)
        weights = {name: self._leaf(name, None) for name in ("input", "hidden")}
        params = self.neuron.Params(**weights, **numbers, reset_mechanism=self._reset_mechanism)
        self._register({"threshold": params.threshold}, learned)

    def _leaf(self, name: str, dtype: torch.dtype | None) -> Any:
        if name == "threshold":
            return super()._leaf(name, dtype)
        cell, end = self.lstm_cell, {"input": "ih", "hidden": "hh"}[name]
        weight, bias = getattr(cell, f"weight_{end}"), getattr(cell, f"bias_{end}", None)
        return Linear.__rebuild__([weight, _bias(bias, weight)], ())  # pyright: ignore[reportAttributeAccessIssue]

    def _shape(self, input_: Tensor) -> tuple[int, ...]:
        return *input_.shape[:-1], self.hidden_size


class SConv2dLSTM(stateful(sconv2dlstm, "SConv2dLSTM", numbers={"threshold": 1.0}, signature=_sconv2dlstm)):
    """`snntorch.SConv2dLSTM` over `sconv2dlstm_step`: `input_` (batch, in_channels, H, W), states (batch, out_channels, H, W).

    spk, syn, mem = layer(input_, syn, mem)
    """

    pointwise = False

    def _keep(self, numbers: dict[str, Any], learned: set[str], options: dict[str, Any]) -> None:
        self.in_channels, self.out_channels = options["in_channels"], options["out_channels"]
        self.kernel_size, self.bias = options["kernel_size"], options["bias"]
        self.max_pool, self.avg_pool = options["max_pool"], options["avg_pool"]
        self.conv = nn.Conv2d(
            self.in_channels + self.out_channels,
            4 * self.out_channels,
            self.kernel_size,
            padding=_padding(self.kernel_size),
            bias=self.bias,
        )
        pools = {"max_pool": self.max_pool, "avg_pool": self.avg_pool}
        gates = self._leaf("gates", None)
        params = self.neuron.Params(gates, **numbers, **pools, reset_mechanism=self._reset_mechanism)
        self._register({"threshold": params.threshold}, learned)

    def _leaf(self, name: str, dtype: torch.dtype | None) -> Any:
        return _connection(self.conv) if name == "gates" else super()._leaf(name, dtype)

    def _choices(self) -> dict[str, Any]:
        return super()._choices() | {"max_pool": self.max_pool, "avg_pool": self.avg_pool}

    def _shape(self, input_: Tensor) -> tuple[int, ...]:
        return *input_.shape[:-3], self.out_channels, *input_.shape[-2:]
