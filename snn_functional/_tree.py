"""Trees: frozen dataclasses that are nodes of optree and of torch's pytree.

    @pytree
    class LeakyParams:
        beta: Leaf                                     # a number or a tensor; kept as a tensor
        threshold: Leaf = leaf(default=1.0)
        spike_grad: Surrogate = static(default=ATan())         # a choice: part of the tree's structure
        reset_mechanism: str = static(default="subtract", choices=("subtract", "zero", "none"))

    @pytree
    class LeakyState:
        mem: Tensor

Numbers are leaves, choices are structure. A user *builds* a tree (`LeakyParams(0.9)`): numbers become
0-d tensors of the default dtype, and what cannot be right is refused. A transform *rebuilds* one (unflatten):
nothing is converted or checked, because `vmap`, `tree_map` and the like put axes, names, shapes
and batched tensors where tensors were.

This file is the only one that touches optree and torch's private pytree module.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Annotated, Any, overload, TYPE_CHECKING, TypeVar

import optree
import torch
import torch.utils._pytree as torch_pytree
from torch import Tensor
from typing_extensions import dataclass_transform

from ._functorch import readable


T = TypeVar("T")

# optree's own annotations say that a tree is not a dataclass.
tree_flatten: Any = optree.tree_flatten
tree_unflatten: Any = optree.tree_unflatten
tree_leaves: Any = optree.tree_leaves
tree_map: Any = optree.tree_map


def tree_paths(tree: Any, name: str) -> list[str]:
    """Of each leaf how Python code finds it in the tree of this name: `state[0].mem`."""
    accessors: Any = optree.tree_flatten(tree)[1].accessors()
    return [accessor.codify(name) for accessor in accessors]


def tree_flatten_one_level(tree: Any) -> tuple[list[Any] | None, Any]:
    """The children of a node and what else makes it up, keys and the like; (None, None) of a leaf."""
    try:
        children, data, *_ = optree.tree_flatten_one_level(tree)
    except ValueError:  # a leaf
        return None, None
    return list(children), data


if TYPE_CHECKING:

    class Leaf:
        """Built from a number or a tensor, read as a tensor."""

        @overload
        def __get__(self, obj: None, owner: Any) -> Any: ...
        @overload
        def __get__(self, obj: object, owner: Any) -> Tensor: ...
        def __get__(self, obj: Any, owner: Any) -> Any: ...
        def __set__(self, obj: Any, value: Tensor | float) -> None: ...

else:
    Leaf = Annotated[Tensor, "a number or a tensor of numbers; floating, never NaN"]


def leaf(*, default: Any = dataclasses.MISSING) -> Any:
    """A leaf with a default: `threshold: Leaf = leaf(default=1.0)`."""
    return dataclasses.field(default=default)


def static(*, default: Any = dataclasses.MISSING, choices: tuple[Any, ...] | None = None) -> Any:
    """A choice rather than a number: hashable, part of the tree's structure, never a leaf.

    With `choices`, any other value is refused when the tree is built.
    """
    return dataclasses.field(default=default, metadata={"static": True, "choices": choices})


_classes: list[type] = []  # where torch.compile can name the class of a tree that it returns; in a closure it could not


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(leaf, static))
def pytree(cls: type[T]) -> type[T]:
    """Class decorator: a frozen dataclass, registered as a node of optree (globally) and of torch's pytree.

    `dataclasses.replace`, `copy.deepcopy` and pickle work as on any dataclass. To save and load safely:

        torch.save(params, path)
        params = torch.load(path, weights_only=True)     # torch >= 2.4: the class registers itself as safe

    The axes of a `vmap` over some leaves only are a tree of numbers and None, which no tree of tensors is:

        axes = optree.tree_map(lambda leaf: 0 if leaf.dim() else None, params)
        torch.func.vmap(f, in_dims=(axes, None))(params, xs)

    Equality is identity: two trees of tensors have no single truth value.
    """
    check: Callable[[Any], None] | None = getattr(cls, "__check__", None)

    def build(self: Any) -> None:
        for name in leaves:
            value = getattr(self, name)
            if type(value) is not Tensor:
                object.__setattr__(self, name, _as_leaf(value, cls, name))
            if name in numbers and not (type(value) is float and value == value):  # which is a number for sure
                refuse_number(getattr(self, name), cls, name)
        for name, values in allowed:
            if getattr(self, name) not in values:
                raise ValueError(
                    f"{cls.__name__}({name}={getattr(self, name)!r}): unknown choice. "
                    f"It is one of {', '.join(map(repr, values))}."
                )
        for name in choices:
            value = getattr(self, name)
            if isinstance(value, type) and hasattr(value, "shadow"):
                raise TypeError(f"{cls.__name__}({name}={value.__name__}): a class. Give {value.__name__}().")
            if name in surrogates and not callable(value):
                raise TypeError(
                    f"{cls.__name__}({name}={value!r:.60}): expected a surrogate, as snn_functional.surrogate.atan(), or another "
                    "function of mem - threshold."
                )
        if check is not None:
            check(self)

    setattr(cls, "__post_init__", build)
    cls = dataclasses.dataclass(frozen=True, eq=False)(cls)
    fields = dataclasses.fields(cls)  # pyright: ignore[reportArgumentType]
    leaves = tuple(f.name for f in fields if not f.metadata.get("static"))
    choices = tuple(f.name for f in fields if f.metadata.get("static"))
    numbers = frozenset(f.name for f in fields if f.name in leaves and _is_leaf_type(f.type))
    surrogates = frozenset(f.name for f in fields if _is_surrogate_type(f.type))
    allowed = tuple((f.name, f.metadata["choices"]) for f in fields if f.metadata.get("choices"))

    def flatten(tree: Any) -> tuple[list[Any], Any]:
        return [getattr(tree, n) for n in leaves], tuple(getattr(tree, n) for n in choices)

    number = len(_classes)

    def unflatten(children: Any, static_values: Any) -> Any:
        tree = object.__new__(_classes[number])
        for name, value in zip(leaves, children):
            object.__setattr__(tree, name, value)
        for name, value in zip(choices, static_values):
            object.__setattr__(tree, name, value)
        return tree

    _classes.append(cls)
    setattr(cls, "__leaves__", leaves)
    setattr(cls, "__role__", "Params" if cls.__name__.endswith("Params") else None)  # looked up in each step
    setattr(cls, "__choices__", choices)
    setattr(cls, "__rebuild__", staticmethod(unflatten))
    optree.register_pytree_node(
        cls,  # pyright: ignore[reportArgumentType]
        lambda tree: (*flatten(tree), leaves),
        lambda static_values, children: unflatten(children, static_values),
        namespace=optree.registry.__GLOBAL_NAMESPACE,  # pyright: ignore
    )
    if hasattr(torch_pytree, "GetAttrKey"):  # since torch 2.2; `torch.export` names its inputs by these

        def flatten_with_keys(tree: Any) -> Any:
            children, static_values = flatten(tree)
            return [(torch_pytree.GetAttrKey(n), child) for n, child in zip(leaves, children)], static_values

        torch_pytree.register_pytree_node(cls, flatten, unflatten, flatten_with_keys_fn=flatten_with_keys)
    else:
        torch_pytree._register_pytree_node(cls, flatten, unflatten)
    allow_loading(cls)
    return cls


def replaced(tree: Any, **values: Any) -> Any:
    """`dataclasses.replace` within a step: nothing is converted or checked, as in any rebuilding."""
    parts = ([values.get(name, getattr(tree, name)) for name in names] for names in (tree.__leaves__, tree.__choices__))
    return tree.__rebuild__(*parts)


def allow_loading(cls: type) -> None:
    """Let `torch.load(weights_only=True)` rebuild this class: it holds values and runs no code of its own."""
    if hasattr(torch.serialization, "add_safe_globals"):
        torch.serialization.add_safe_globals([cls])


def named_leaves(tree: Any) -> dict[str, Tensor]:
    """The leaves of any tree by their dotted names, as safetensors, `torch.export` and logs want them.

        named_leaves((Linear(w, b), LeakyParams(0.9)))          {"0.weight": w, "0.bias": b, "1.beta": ..., "1.threshold": ...}
        safetensors.torch.save_file(named_leaves(state), path)
        state = with_leaves(state, safetensors.torch.load_file(path))

    A program that `torch.export` is to save takes and gives dictionaries:

        class Step(torch.nn.Module):
            def forward(self, params, state, x):
                spk, new = leaky_step(with_leaves(P, params), with_leaves(S, state), x)
                return spk, named_leaves(new)

        program = torch.export.export(Step(), (named_leaves(P), named_leaves(S), x))
        torch.export.save(program, path)

    Raises ValueError where two leaves have one name: {"a.b": x, "a": {"b": y}}.
    """
    paths = optree.tree_paths(tree)
    names = [".".join(map(str, path)) for path in paths]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(
            f"named_leaves(tree): two leaves are named {twice!r}. Rename a key of a dictionary in the tree."
        )
    return dict(zip(names, tree_leaves(tree)))


def with_leaves(tree: T, named: dict[str, Tensor]) -> T:
    """A tree like `tree`, choices too, with the leaves that `named_leaves` would give as `named`. Shapes and dtypes may be others.

    Raises ValueError for names that are missing or unknown.
    """
    names = list(named_leaves(tree))
    if named.keys() != set(names):
        missing, unknown = sorted(set(names) - named.keys()), sorted(named.keys() - set(names))
        raise ValueError(
            f"with_leaves({type(tree).__name__}, named): missing {missing}, unknown {unknown}. Expected the names of "
            "named_leaves(tree)."
        )
    return tree_unflatten(tree_flatten(tree)[1], [named[name] for name in names])


Which = str | Iterable[str] | Callable[[str, Tensor], bool] | None


def partition(tree: Any, which: Which) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The leaves of a tree that `which` says, and the others, by the names of `named_leaves`: to learn the ones and freeze the others.

        learned, frozen = partition(params, "beta")
        loss = lambda learned, xs: f(with_leaves(params, learned | frozen), xs)
        grads = torch.func.grad(loss)(learned, xs)

    - `which`: names; a function of a leaf's name and the leaf; or None for all. A name is a leaf's own, "0.beta", or the end of some,
      "beta", or their beginning, "0" for all of the first layer.

    `torch.optim` takes groups of parameters in the same way, of `dict(module.named_parameters())`, which is a tree too.

    Raises ValueError for a name that no leaf has.

    >>> learned, frozen = partition((LeakyParams(beta=0.9), LeakyParams(beta=0.8)), ["0", "1.beta"])
    >>> list(learned), list(frozen)
    (['0.beta', '0.threshold', '1.beta'], ['1.threshold'])
    """
    named = named_leaves(tree)
    if callable(which):
        chosen = {name for name, leaf in named.items() if which(name, leaf)}
    else:
        chosen = set(named) if which is None else set()
        for given in [which] if isinstance(which, str) else which or ():
            of = [name for name in named if f".{name}.".startswith(f".{given}.") or name.endswith(f".{given}")]
            if not of:
                raise ValueError(f"partition(tree, which): no leaf is called {given!r}. There are {', '.join(named)}.")
            chosen.update(of)
    return {k: x for k, x in named.items() if k in chosen}, {k: x for k, x in named.items() if k not in chosen}


def _is_leaf_type(annotation: Any) -> bool:
    return annotation is Leaf or (isinstance(annotation, str) and annotation.split(".")[-1] == "Leaf")


def _is_surrogate_type(annotation: Any) -> bool:
    """`surrogate.Spike`; a field of another type may be called `spike_grad`, too."""
    return annotation == Callable[[Tensor], Tensor] or (
        isinstance(annotation, str) and annotation.split(".")[-1] == "Spike"
    )


def _as_leaf(value: Any, cls: type, name: str) -> Any:
    if hasattr(value, "Params") and hasattr(value, "init"):  # a Neuron, of which this file knows nothing
        own = f"{value.Params.__name__}(...)" if hasattr(value.Params, "__leaves__") else "as its layers have it"
        raise TypeError(
            f"{cls.__name__}({name}=...): {name} is a tree of params, {own}, but the bundle came: {value!r}."
        )
    if isinstance(value, type) or hasattr(value, "named_parameters"):
        raise TypeError(
            f"{cls.__name__}({name}=...): {name} is a leaf of the tree, a number or a tensor, or a tree itself, but "
            f"{described(value)} came. "
            + ("Make one: " if isinstance(value, type) else "A layer's weights are a tree: ")
            + f"{name}={_made(value)}."
        )
    if isinstance(value, (bool, complex, str)) or (callable(value) and not hasattr(value, "__leaves__")):
        raise TypeError(
            f"{cls.__name__}({name}={value!r}): {name} is a leaf of the tree, a number or a tensor. "
            f"A choice is declared with `{name}: ... = static(...)`."
        )
    if isinstance(value, (int, float)):
        return torch.tensor(float(value))
    return value


def _made(value: Any) -> str:
    """How a tree is made of a class that came, or of a module."""
    kind = value if isinstance(value, type) else type(value)
    trees = {"Linear": "Linear(layer.weight, layer.bias)", "Conv2d": "Conv2d(layer.weight, layer.bias)"}
    if not isinstance(value, type) or hasattr(kind, "named_parameters"):
        return trees.get(kind.__name__, "a number, a tensor or Linear(weight, bias)")
    return f"{kind.__name__}(...)"


def described(value: Any) -> str:
    """What came, in words, for a message: short, and never a tensor's numbers."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if hasattr(value, "named_parameters"):
        return f"the module {type(value).__name__}"
    if isinstance(value, (bool, int, float, complex, str)):
        return f"{value!r:.60}"
    if value is None:
        return "None"
    if callable(value) and hasattr(value, "__name__"):
        return f"the function {value.__name__}"
    name = type(value).__name__
    return f"{'an' if name[:1] in 'AEIOUaeiou' else 'a'} {name}"


def refuse_number(value: Any, cls: type, name: str) -> None:
    """Refuse what is no floating tensor, or holds NaN."""
    where = f"{cls.__name__}({name}=...)"
    if not isinstance(value, Tensor):
        axes = " For the axes of vmap: optree.tree_map(lambda leaf: 0 if leaf.dim() else None, params)."
        raise TypeError(
            f"{where} takes a number or a tensor, not {type(value).__name__}.{axes if value is None else ''}"
        )
    if not value.is_floating_point():
        raise TypeError(f"{where} takes a floating tensor, not {value.dtype}: give {name}.float().")
    if readable(value) and bool(value.isnan().any()):
        raise ValueError(f"{where} holds NaN: {value}.")
