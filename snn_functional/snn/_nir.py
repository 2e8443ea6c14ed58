"""NIR, the exchange format of neuromorphic tools: not recreated yet, and said so."""

from typing import Any, NoReturn


def export_to_nir(module: Any, sample_data: Any, *args: Any, **kwargs: Any) -> NoReturn:
    """Not recreated yet: raises NotImplementedError, which names the way over snnTorch."""
    raise NotImplementedError(
        "snn_functional does not write NIR yet. Build the same network of snntorch's layers, whose checkpoints have the same names, "
        "and export that: theirs.load_state_dict(ours.state_dict()); snntorch.export_nir.export_to_nir(theirs, sample_data)."
    )


def import_from_nir(graph: Any, *args: Any, **kwargs: Any) -> NoReturn:
    """Not recreated yet: raises NotImplementedError, which names the way over snnTorch."""
    raise NotImplementedError(
        "snn_functional does not read NIR yet. Read it with snntorch (snntorch.import_nir.import_from_nir(graph)), build the same "
        "network of snn_functional.snn's layers, and copy the parameters layer by layer: ours.load_state_dict(theirs.state_dict())."
    )
