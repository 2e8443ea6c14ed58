"""Kernels as operations of torch, `torch.ops.snn_functional.*`, which a tracer puts into its graph instead of looking into them.

They are known from the import on, for a saved graph may be the first to ask. What they do is loaded with the first call. They have no
derivative: in a graph that is traced they stand below primitives that have rules, and alone, in one that `torch.export` made, they refuse.
"""

import importlib
from typing import Any

import torch


REST = "SymInt[] lanes, SymInt T, bool reverse, SymInt every) -> Tensor[]"
OPERATORS = {  # and the modules whose `OPERATORS` say what they do, and which shapes that has
    f"scan(str kernel, Tensor[] leaves, {REST}": "._scan._operations",
    f"scan_backward(str kernel, Tensor[] leaves, Tensor[] cotangents, Tensor[] checkpoints, {REST}": "._scan._operations",
    "product(Tensor z, Tensor w, Tensor? bias) -> Tensor": "._events._operations",
    "outer(Tensor z, Tensor g, bool turned) -> Tensor": "._events._operations",
}


def _register(schema: str, module: str) -> None:
    name = schema.partition("(")[0]
    it: Any = lambda which: lambda *args: importlib.import_module(module, __package__).OPERATORS[name][which](*args)
    LIBRARY.define(schema)
    LIBRARY.impl(name, it(0), "CompositeExplicitAutograd")
    torch.library.register_fake(f"snn_functional::{name}", it(1), lib=LIBRARY)
    torch.library.register_autograd(f"snn_functional::{name}", _refuse, lib=LIBRARY)


def _refuse(ctx: Any, *cotangents: Any) -> Any:
    raise RuntimeError("scan: an exported graph has no derivative. Differentiate the module that it was made of.")


if hasattr(torch.library, "register_fake"):  # not before torch 2.4, where no tracer gets here
    LIBRARY = torch.library.Library("snn_functional", "DEF")
    for schema, module in OPERATORS.items():
        _register(schema, module)
