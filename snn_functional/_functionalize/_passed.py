"""What goes from layer to layer and from step to step of a net, where that is not what a step of time needs: said in words.

snnTorch's tutorials write a net whose states come and go, `forward(x, mem1, mem2)`, and a face without `init_hidden` returns its states
beside its spikes. Neither is called as `net(x)`, step by step.
"""

from torch import nn

from ._arguments import arguments
from ._has_state import HasState, layers
from ._memory import of_library


def takes_states(call: str, net: nn.Module) -> str | None:
    """What to say of a forward that cannot be called with one step alone; None of any other."""
    try:
        names, _, needed = arguments(net)
    except (TypeError, ValueError):  # it does not say what it takes
        return None
    if isinstance(net, HasState) or not needed:
        return None
    says = f"{call}: each step is net(x), but the forward of {type(net).__name__} takes (x, {', '.join(names)})."
    if faces := layers(net, HasState):
        name, face = next(iter(faces.items()))
        kind = type(face).__name__
        says += (
            f" Its faces can keep their states themselves, {', '.join(faces)}:\n"
            f"    self.{name} = snn.{kind}(..., init_hidden=True)\n"
            f"    def forward(self, x): ...                            # spk = self.{name}(...), no {names[0]} comes or goes\n"
        )
    return f"{says.rstrip()}\n{as_a_step(names)}"


def as_a_step(names: list[str]) -> str:
    """How a net whose states come and go is run."""
    rest = ", ".join("torch.zeros(())" for _ in names)
    return (
        "As it is, it is a pure step:\n"
        f"    step, params, state = snf.functionalize(net, {rest})      # {', '.join(names)} at rest, or trees of such\n"
        "    spks, state = snf.scan(step, params, state, xs)"
    )


def passed_on(net: nn.Module, error: Exception) -> str | None:
    """What to say of an error about a tuple, where in a Sequential a face's spikes and states go on to a layer that takes one tensor; None
    of any other: who calls the layers of a Sequential one by one may well take the tuple apart."""
    if not isinstance(error, (TypeError, AttributeError)) or "tuple" not in str(error):
        return None
    for where, part in net.named_modules():
        children = list(part.named_children()) if isinstance(part, nn.Sequential) else []
        for (_, child), (after, following) in zip(children, children[1:]):
            face = _returns_states(child)
            if face is None or not (of_library(following) or isinstance(following, HasState)):
                continue
            states = ", ".join(dict.fromkeys(("spk", *face.neuron.State.__leaves__)))
            how = "init_hidden=False" if not face.init_hidden else "output=True"
            faces = layers(net, HasState)
            without = [key for key, other in faces.items() if not other.init_hidden]
            cure = f"init_hidden=True of each: {', '.join(map(repr, without))}" if without else "output=False of it"
            own, onward = (
                next(key for key, other in faces.items() if other is face),
                f"{where}.{after}" if where else after,
            )
            return (
                f"Layer {own!r}, {type(face).__name__}({how}), returns ({states}), all of which goes on to layer "
                f"{onward!r}, {type(following).__name__}, which takes one tensor. Say {cure}."
            )
    return None


def _returns_states(module: nn.Module) -> HasState | None:
    """The face whose states this returns beside its spikes, if it does."""
    if isinstance(module, nn.Sequential) and len(module):
        return _returns_states(module[-1])
    if isinstance(module, HasState) and (not module.init_hidden or getattr(module, "output", False)):
        return module
    return None
