"""Kernels, each found by what it depends on: a step that is read again finds the kernel that was printed for it before.

Programs are equal if their texts are, so one kernel serves all that differ in their free numbers only; these are given at each call.
A bounded number of kernels is kept, the oldest go first. None of them holds what a step held.
"""

import importlib
from collections.abc import Iterable
from typing import Any

from .._functorch import untraced
from .._identity import Registry
from ._network import Network, Product
from ._program import Program, Unsupported
from ._signature import Signature


# By the type of device: the module whose `Forward` and `Backward` are its loops. It is loaded with the first kernel.
BACKENDS = {"cpu": "_cpu", "cuda": "_gpu"}
# For steps that hold products of matrices: kernels of whole rows, and up to how many neurons a row. All others go in stages, and are
# told their device.
NETWORKS = {"cpu": ("_cpu_network", 1 << 31), "cuda": ("_gpu_network", 256)}


class Bound:
    """A kernel together with the free numbers of a program that it serves. `made`: the call that found it."""

    def __init__(self, kernel: Any, numbers: tuple[float, ...], *made: Any) -> None:
        self.kernel, self.numbers, self.made = kernel, numbers, made
        self.packed: str | None = None

    def __call__(self, *arguments: Any) -> Any:
        return self.kernel(self.numbers, *arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.kernel, name)


def forward_kernel(device: str, program: Program | Network, signature: Signature, uniform: tuple[bool, ...]) -> Bound:
    """A `ForwardLoop`. Raises Unsupported for a type of device that has no kernels."""
    kernel = _found_or_made(device, "Forward", (program, signature, uniform))
    return Bound(kernel, program.numbers, forward_kernel, device, program, signature, uniform)


def segment_kernel(device: str, program: Program, uniform: tuple[bool, ...]) -> Any:
    """A `ForwardLoop` for one time step. `uniform`: which leaves are one number for all."""
    dtypes = [x.dtype for x in program.leaves]
    signature = Signature.of((len(dtypes), 0, 0), dtypes, [x.dtype for x in program.outputs])
    return _found_or_made(device, "Forward", (program, signature, uniform))


def backward_kernel(
    device: str, forward: Program, program: Program, signature: Signature, uniform: tuple[bool, ...], wanted: tuple[int, ...]
) -> Bound:  # fmt: skip
    """A `BackwardLoop`. Raises Unsupported for a type of device that has no kernels."""
    # What the derivative need not work out again depends on which of its numbers are the forward's.
    known = {(x.dtype, value): i for i, (x, value) in enumerate(zip(forward.free, forward.numbers))}
    shared = tuple(known.get((x.dtype, value)) for x, value in zip(program.free, program.numbers))
    kernel = _found_or_made(device, "Backward", (forward, program, signature, uniform, wanted), shared)
    made = backward_kernel, device, forward, program, signature, uniform, wanted
    return Bound(kernel, (*forward.numbers, *program.numbers), *made)


def network_backward_kernel(
    device: str, again: Network, program: Network, signature: Signature, uniform: tuple[bool, ...], wanted: tuple[int, ...],
    recorded: tuple[int, ...],
) -> Bound:  # fmt: skip
    """The same for a step that holds products. `recorded`: of which products what they take and what flows back is kept over time."""
    kernel = _found_or_made(device, "Backward", (again, program, signature, uniform, wanted, recorded))
    made = network_backward_kernel, device, again, program, signature, uniform, wanted, recorded
    return Bound(kernel, (*again.numbers, *program.numbers), *made)


_kernels: Registry[Any] = Registry(1000)


def whole_rows(device: str, products: Iterable[Product], widths: Iterable[int]) -> bool:
    """Is there a kernel of whole rows for a step that holds these, over rows so wide, or does it go in stages?"""
    _, widest = NETWORKS.get(device, ("", 0))
    return max(widths) <= widest and not any(x.convolution for x in products)


def _found_or_made(device: str, which: str, of: tuple[Any, ...], *beside: Any) -> Any:
    """`of`: its arguments, the first a program or a network."""
    if device not in BACKENDS:
        raise Unsupported(f"there is no kernel for {device}")
    if not isinstance(of[0], Network):
        home = BACKENDS[device]
    elif whole_rows(device, of[0].products, (w for _, w in of[0].values)):
        home, _ = NETWORKS[device]
    else:
        home, of = "_staged", (device, *of)
    make: Any = getattr(importlib.import_module(f".{home}", __package__), which)
    key = make, of, beside
    # Made quickly: a kernel is printed and built when it is first called.
    if (found := _kernels.get(key)) is None:
        with untraced():
            found = _kernels.put(key, make(*of))
    return found
