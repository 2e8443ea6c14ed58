"""Which tree of params belongs to which layer: read from a neuron, before anything is run."""

from typing import Any

from .._neuron import fields_of, name_of, Neuron
from .._scan._door import annotation
from .._tree import described, tree_leaves


def layers_of(step: Any) -> tuple[Neuron, ...] | None:
    """The layers of a chain, or of what is around one; None of any other step."""
    return getattr(step, "__layers__", None)  # a user's own step may have layers whose params are another tree


def parts(step: Any, params: Any, path: str = "") -> list[tuple[str, str, Any]]:
    """Of each layer, those within another one too, its place ("2.0", "" where there is but one), its name and its params."""
    inside = layers_of(step)
    if inside is None:
        within = _modified(step)  # the trees of some modifiers, as of `masked`, are those of the chain within
        same = within is not None and step.Params is None and layers_of(within) is not None
        return parts(within, params, path) if same else [(path, name_of(step), params)]
    each = zip(range(len(inside)), inside, params)
    return [part for i, layer, tree in each for part in parts(layer.step, tree, f"{path}.{i}" if path else f"{i}")]


def refuse_other_trees(call: str, neuron: Neuron, params: Any) -> None:
    """Raises TypeError for params that are not this neuron's: of a chain too few, too many or in another order, within a modifier too."""
    _refuse(call, neuron, params, "params")


def _refuse(call: str, neuron: Neuron, tree: Any, where: str) -> None:
    step, own = neuron.step, neuron.Params
    layers = layers_of(step)
    if layers is not None:
        if not isinstance(tree, tuple) or len(tree) != len(layers):
            came = f"{len(tree)} came" if isinstance(tree, tuple) else f"{described(tree)} came"
            came += ": give tuple(params)" if isinstance(tree, list) else ""
            raise TypeError(
                f"{call}: {where} is a tuple of {len(layers)}, one for each layer: {_each(layers)}; {came}."
            )
        for i, (layer, part) in enumerate(zip(layers, tree)):
            _refuse(call, layer, part, f"{where}[{i}]")
        return
    if hasattr(step, "__plain__"):  # a function, which has no params
        if tree_leaves(tree):  # None, say, is as empty as ()
            raise TypeError(f"{call}: {where} is (), {name_of(step)} has none, but {described(tree)} came.")
    elif hasattr(own, "__leaves__") and (
        hasattr(step, "Params") or annotation(step, 0) is own
    ):  # its step reads that tree
        if not isinstance(tree, own):
            raise TypeError(
                f"{call}: {where} is a tree of {own.__name__}, but {described(tree)} came. Make one: {fields_of(own)}."
            )
    elif own is dict and not isinstance(tree, dict):
        raise TypeError(
            f"{call}: {where} is a dictionary, as layer(module) gives it beside {name_of(step)}, but {described(tree)} came."
        )
    inner = _modified(step)
    if inner is not None:
        around = getattr(step, "Params", None)
        within = getattr(inner, "Params", None) or annotation(inner, 0) or (None if around else own)
        within = Neuron(within, None, neuron.init, inner)
        _refuse(call, within, getattr(tree, "inner", None) if around else tree, f"{where}.inner" if around else where)


def _modified(step: Any) -> Any:
    """The step within, if this is a modifier around it: one says which trees it puts around those. None of any other."""
    return getattr(step, "step", None) if hasattr(step, "Params") else None


def _each(layers: tuple[Neuron, ...]) -> str:
    """What the params of these layers are, as they are written."""
    return f"({', '.join(_written(layer) for layer in layers)}{',' if len(layers) == 1 else ''})"


def _written(layer: Neuron) -> str:
    if (layers := layers_of(layer.step)) is not None:
        return _each(layers)
    if hasattr(layer.step, "__plain__"):
        return "()"
    if hasattr(layer.Params, "__leaves__"):
        return layer.Params.__name__
    return "{...}" if layer.Params is dict else "..."
