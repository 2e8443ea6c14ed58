"""`functionalize(module)`: a module of faces and ordinary layers as a pure step, and the way back; `layer(module)`: one in a chain.

    _functional.py    the step: a copy of the module, into which the tensors of a call are put
    _has_state.py     what is known of a face: `HasState`, which the faces extend
    _arguments.py     the states that forward takes and returns, and the names of tensors
    _memory.py        what else a forward may keep, which is refused
    _passed.py        what goes from layer to layer and should not, in words
    _calls.py         what a forward calls its faces for: is it one step of time?
    _module.py        `module`: a pure neuron as a module
    _trees.py         which tree of params belongs to which layer of it
    _misfit.py        what helps where an input's dtype or device is not the module's
    _vmap.py          which buffers differ between the samples of a `vmap`

The room knows no face: a module without any needs none to be loaded.
"""

import copy
import dataclasses
from typing import Any

import torch
from torch import nn, Tensor

from .._neuron import Neuron
from ._arguments import arguments, check_names, names_of
from ._functional import faces, Functional
from ._has_state import HasState, layers
from ._module import module as module


def functionalize(module: nn.Module, *states: Any) -> tuple["Functional", dict[str, Tensor], dict[str, Any]]:
    """`module` as `(step, params, state)`: a pure step, and two dictionaries of tensors by name.

        net = nn.Sequential(nn.Linear(784, 10), snn.Leaky(beta=0.9, init_hidden=True))
        step, params, state = snf.functionalize(net)
        spks, state = snf.scan(step, params, state, xs)                     # xs [T, batch, 784]
        loss = lambda params, xs: snf.scan(step, params, state, xs)[0].square().mean()
        grads = torch.func.grad(loss)(params, xs)

    - `params`: every parameter, as `module.named_parameters()` names them: a shared one once, frozen ones too.
    - `state`: what else a step may change: every buffer under its name, and the hidden state of every face with `init_hidden=True`
      as `snn.utils.state_dict` names it, `"1.mem"`. At rest it is a 0-d zero, which the first step makes as large as its input.
      Both are copies; `torch.save` and safetensors take them as they are, and `defunctionalize` writes them back.
    - `states`: for a forward that takes its states and returns them, `forward(x, mem1, mem2) -> (out, mem1, mem2)`, what they are
      before the first step (any trees of tensors): `functionalize(net, mem1, mem2)`. In `state` they have the names of forward's
      arguments (for a face with `init_hidden=False`: those of its states); the last values returned are the new ones.

    `step(params, state, x) -> (out, state)` gives what `module(x)` returns, `x` being one tensor or whatever forward takes. It is
    closed under `torch.func`. Training or evaluation is what `module` is in now; dropout draws from torch's generator (under `vmap`
    say `randomness="different"`). Threads that share a step take turns. It pickles where the module does.

    Raises TypeError for what is no module, for one that takes whole sequences or is sharded, and for states missing or too many;
    ValueError for names that collide. The step raises ValueError for other names than these, and TypeError for a forward that remembers
    something in an attribute of its own, or that gives a face with `init_hidden=False` no state; RuntimeError, with what helps, for
    one that reads numbers which differ between the samples of a `vmap`. `scan` raises TypeError for a forward that is seen to hold the
    time loop itself.
    """
    explicit = names_of(module, states)  # before the copy, which a module that is refused may refuse in its own words
    step = Functional(copy.deepcopy(module), explicit)
    params, state, names = step._params, step._state, step._explicit
    if both := [name for name in names if name in params or name in state]:
        raise ValueError(
            f"functionalize({type(module).__name__}): {', '.join(both)} names an argument of forward and a tensor of the module "
            "alike. Rename one."
        )
    return step, dict(params), state | dict(zip(names, states))


def layer(module: nn.Module) -> tuple[Neuron, dict[str, Tensor]]:
    """`module` as a layer of a `chain`, and its entry in the chain's params: the parameters by name.

        norm, of_norm = snf.layer(torch.nn.BatchNorm1d(64))
        net = snf.chain(snf.linear, norm, snf.leaky)
        params = (snf.Linear.random(256, 64), of_norm, snf.LeakyParams(0.9))

    The layer's step is `functionalize(module)`'s, with all that is said there. Its state at rest is the module's buffers: in training
    a normalization takes its mean and variance from each step's batch, and each step's go into the running ones, `state[1]` here, as in
    a loop over the module; in evaluation it takes these. Training or evaluation is what the module is in when this is called. From one
    to the other the numbers go by way of the module:

        snf.defunctionalize(module, params[1], state[1])
        norm, of_norm = snf.layer(module.eval())

    Make it once, not in each loss: two layers are never equal, and `scan` reads a network with a new one anew.

    Raises TypeError for what is no module, and for one with faces, which hold states of their own: its parts are layers, or all of it is
    a step, `functionalize(module)`.
    """
    if isinstance(module, nn.Module) and (held := layers(module, HasState)):
        where, face = next(iter(held.items()))
        where = f" at {where!r}" if where else ""
        raise TypeError(
            f"layer({type(module).__name__}): it has a {type(face).__name__}{where}, which remembers. Take it apart, chain(linear, leaky), "
            "or all of it is a step already: step, params, state = functionalize(module)."
        )
    step, params, state = functionalize(module)
    return Neuron(dict, dict, _Rest(step, state), step), params


@dataclasses.dataclass(frozen=True)
class _Rest:
    """The init of a module's layer: its buffers."""

    step: Functional
    state: dict[str, Tensor]

    def __call__(self, params: Any, input: Any) -> dict[str, Tensor]:
        return dict(self.state)


def has_tensors(module: Any) -> bool:
    return isinstance(module, nn.Module) and any(True for of in (module.parameters(), module.buffers()) for _ in of)


def defunctionalize(module: nn.Module, params: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write `params` and `state` back into `module`, in place: its parameters, its buffers, the hidden states of its faces.

        step, params, state = snf.functionalize(net)
        ...                                                     # train params, scan on from state
        snf.defunctionalize(net, params, state)                 # net goes on from here, bit for bit

    States that forward takes as arguments are not the module's: they are left out. All is checked before anything is written.

    Raises TypeError for what is no module, ValueError for names that are missing or unknown, and for another shape or dtype than the
    module's.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"defunctionalize(module, params, state): module is an nn.Module, not {type(module).__name__}.")
    call = f"defunctionalize({type(module).__name__}, params, state)"
    own, held = dict(module.named_parameters()), faces(module)
    buffers = {name: x for name, x in module.named_buffers() if all(x is not p for p in own.values())}
    hidden = [key for keys, _ in held for key in keys]
    takes = arguments(module)
    inside = {k: x for k, x in state.items() if k in buffers or k in hidden or not takes.has(k)}
    check_names(f"{call}: params", params, own)
    check_names(f"{call}: state", inside, [*buffers, *hidden])
    written = [(name, x, params[name]) for name, x in own.items()] + [(k, x, inside[k]) for k, x in buffers.items()]
    for name, old, new in written:
        if new.shape != old.shape or new.dtype != old.dtype:
            raise ValueError(
                f"{call}: {name} is {new.dtype} {tuple(new.shape)}, but the module's is {old.dtype} {tuple(old.shape)}. Of an "
                "ensemble write one member back: optree.tree_map(lambda x: x[0], params)."
            )
    for key in hidden:
        x = inside[key]
        if not isinstance(x, Tensor) or not x.is_floating_point():
            came = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(f"{call}: the state {key} is a floating tensor, but {came} came.")
    with torch.no_grad():
        for _, old, new in written:
            old.copy_(new)
    for keys, face in held:
        leaves = [inside[key].detach().clone() for key in keys]
        face.reset_hidden()
        if any(x.dim() or x for x in leaves):
            face.hold(leaves)
