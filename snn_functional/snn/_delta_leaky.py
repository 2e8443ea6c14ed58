"""`snn.DeltaLeaky`: the face whose states come and go as a pair, and which has Leaky's arguments but not all of its switches."""

from typing import Any

from torch import Tensor

from .._neuron import at_rest, Neuron
from .._tree import pytree
from ..neurons import delta_leaky_step, DeltaLeakyParams, DeltaLeakyState
from ._face import stateful


@pytree
class _Moving:
    """The membrane, and beside it what it was a step before: the step has no use for that, but whoever calls the face gets it."""

    mem: Tensor
    mem_prev: Tensor


def _init(params: DeltaLeakyParams, input: Tensor) -> _Moving:
    rest = at_rest(params, input)
    return _Moving(rest, rest)


def _leaky(params: DeltaLeakyParams, state: _Moving, input: Tensor) -> tuple[Tensor, _Moving]:
    spk, new = delta_leaky_step(params, DeltaLeakyState(state.mem), input)
    return spk, _Moving(new.mem, state.mem.expand_as(new.mem))


def _arguments(
    delta_threshold=1.0, beta=None, threshold=1.0, spike_grad=None, surrogate_disable=False, init_hidden=False,
    inhibition=False, learn_beta=False, learn_threshold=False, reset_mechanism="none", state_quant=False, output=True,
    graded_spikes_factor=1.0, learn_graded_spikes_factor=False, reset_delay=True, *, learn_delta_threshold=False,
): ...  # fmt: skip


UNUSED = {
    "threshold": 1.0, "inhibition": False, "learn_threshold": False, "reset_mechanism": "none", "state_quant": False,
    "reset_delay": True,
}  # fmt: skip
NUMBERS = {"beta": None, "delta_threshold": 1.0}


class DeltaLeaky(
    stateful(
        Neuron(DeltaLeakyParams, _Moving, _init, _leaky), "DeltaLeaky", "graded_spikes_factor",
        numbers=NUMBERS, signature=_arguments,
    )
):  # fmt: skip
    __doc__ = f"""`snntorch.DeltaLeaky` over `delta_leaky_step`: it fires when its membrane changes by more than `delta_threshold`.

        spk, (mem, mem_prev) = layer(input_, (mem, mem_prev))        at rest without; also with `init_hidden=True`
        spk = layer(input_)                                          with `init_hidden=True, output=False`

    It takes the arguments of `Leaky`, but refuses those that snnTorch 1.0.0 takes and does not use: {", ".join(UNUSED)}.

    {DeltaLeakyParams.__doc__}
    """

    beta: Tensor
    delta_threshold: Tensor

    @property
    def threshold(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """`delta_threshold`: there is no other."""
        return self.delta_threshold

    def forward(self, input_: Tensor, mem: Any = None) -> Any:
        """One step of `input_` [batch, ..., neurons]. `mem` is the pair (mem, mem_prev) of the step before."""
        if mem is not None and (not isinstance(mem, tuple | list) or len(mem) != 2):
            came = f"{len(mem)} of them" if isinstance(mem, tuple | list) else type(mem).__name__
            raise TypeError(
                f"DeltaLeaky: call it as spk, mem = layer(input_, mem), where mem is the pair (mem, mem_prev); got {came}."
            )
        now, before = (None, None) if mem is None else mem
        states = () if now is None else (now, now if before is None else before)
        returned = super().forward(input_, *states)
        return (returned[0], returned[1:]) if isinstance(returned, tuple) else returned

    def _keep(self, numbers: dict[str, Any], learned: set[str], options: dict[str, Any]) -> None:
        for name, default in UNUSED.items():
            if options[name] is not default and options[name] != default:
                raise TypeError(
                    f"DeltaLeaky({name}={options[name]!r}): it fires at delta_threshold, never resets, and has no use for "
                    f"`{name}`. Leave it out."
                )
        if numbers["beta"] is None:
            raise TypeError("DeltaLeaky(delta_threshold=1.0, beta=...): beta is missing, as in DeltaLeaky(beta=0.9).")
        params = DeltaLeakyParams(**numbers, spike_grad=self.spike_grad)
        self._register({name: getattr(params, name) for name in numbers}, learned)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any) -> None:
        rest = {
            key: x for key, x in state_dict.items() if key not in (prefix + "threshold", prefix + "reset_mechanism_val")
        }
        if prefix + "threshold" in state_dict:  # snnTorch's, which does not save what it fires at
            rest.setdefault(prefix + "delta_threshold", self.delta_threshold)
        super()._load_from_state_dict(rest, prefix, *args, **kwargs)
