"""`snntorch.utils`, scoped to the network it is given: nothing here reaches another one."""

from typing import Any

from torch import nn, Tensor

from ._stateful import Stateful


def reset(net: nn.Module) -> None:
    """Forget the hidden states of every neuron layer in `net`, nested ones too; other networks keep theirs.

    Call it between batches. snnTorch 1.0.0 looks at direct children only, and then resets all layers of that class, whoever's.
    """
    for layer in _layers(net).values():
        layer.reset_hidden()


def state_dict(net: nn.Module) -> dict[str, Tensor]:
    """`net.state_dict()` with the running hidden states beside it, under `<layer>.mem`, `<layer>.syn`, ...

    `net.load_state_dict(saved)` restores both, and the network goes on bit for bit:

        torch.save(snn.utils.state_dict(net), path)
        net.load_state_dict(torch.load(path, weights_only=True))
    """
    saved: dict[str, Any] = dict(net.state_dict())
    for name, layer in _layers(net).items():
        for field in layer.neuron.State.__leaves__:
            if (value := getattr(layer, field)) is not None:
                saved[f"{name}.{field}" if name else field] = value.detach()
    return saved


def _layers(net: nn.Module) -> dict[str, Stateful]:
    if not isinstance(net, nn.Module):
        raise TypeError(f"snn.utils takes the network, an nn.Module; got {type(net).__name__}: snn.utils.reset(net).")
    return {name: module for name, module in net.named_modules() if isinstance(module, Stateful)}
