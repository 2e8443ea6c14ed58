"""Linear recurrences: what has no reset can be run in parallel over time.

    h[t] = a[t] h[t-1] + b[t]

Two neighbouring steps are one step of the same form, with a = a[1] a[0] and b = a[1] b[0] + b[1]. So the odd steps are the solution of a
recurrence half as long, and each even step follows from the odd one before it: in 2 log2(T) rounds instead of T. Nothing is divided by a
product of decays, which would overflow: with |a| <= 1 nothing grows.

Blelloch 1990, Prefix sums and their applications; Martin & Cundy 2018, arXiv:1709.04057.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from ._scan import Kind as OfScan, scan


Kind = OfScan | Literal["parallel"]


def linear_scan(a: Tensor | float, b: Tensor, h0: Tensor | float | None = None, *, kind: Kind = "auto") -> Tensor:
    """h[t] = a[t] h[t-1] + b[t] for every t, stacked: in the shape of `b`. The last state is `h[-1]`.

    - `a`: broadcasts to b from the right: a number, (neurons,), (batch, 1), or with all of b's axes, and then per time step.
    - `b`: time first, [T, batch, ..., neurons], floating, T >= 1.
    - `h0`: before the first step, 0 if it is not given. Broadcasts to one time step of b.
    - `kind`: "parallel" for 2 log2(T) rounds of torch operations over all of time; any other is `scan`'s, with the same numbers
      to rounding.

    On a CPU the default, one kernel that runs through time once, was fastest at every size tried. Forward, and with the backward,
    in ms, one core, float32:

        T, batch, neurons    fused          loop           parallel
        1000, 1, 16          0.06, 0.25     7.6, 21        0.28, 1.3
        1000, 16, 256        1.7, 6.0       12, 35         11, 40
        100, 64, 1000        3.6, 11        7.0, 33        18, 79

    So "parallel" is for long sequences of few neurons where there is no kernel: no compiler, or `torch.compile` at work. Its
    derivatives keep 3 times the memory of b, 4 where a moves too, whatever T. Its rounding errors are the loop's, and up to five
    times them where a is near 1 (in float32 6e-6 of the largest h, at a = 0.999 and T = 30 000).

    Closed under `torch.func`. Raises TypeError and ValueError for what does not broadcast, or would change b's dtype.

    >>> linear_scan(0.5, torch.tensor([1.0, 0.0, 0.0, 1.0]))
    tensor([1.0000, 0.5000, 0.2500, 1.1250])
    """
    a, h0 = _admit(a, b, 0.0 if h0 is None else h0)
    moving = a.dim() == b.dim() and len(a) > 1
    if kind != "parallel":
        if moving:
            return scan(_moving, (), h0, (a, b), kind=kind)[0]
        return scan(_fixed, a[0] if a.dim() == b.dim() else a, h0, b, kind=kind)[0]
    a = a if a.dim() == b.dim() else a[None]
    return _halved(a, torch.cat([a[:1] * h0 + b[:1], b[1:]]))


def window(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """The same recurrence with a memory of `steps` inputs: h[t] = b[t] + a b[t-1] + ... + a^(steps-1) b[t-steps+1].

    In log2(steps) rounds, each of which doubles a window; nothing is subtracted. `a` is the same at every time.
    """
    steps, reach, total = min(steps, len(b)), 1, None
    while True:
        if steps & reach:
            total = b if total is None else b + a * _delayed(total, reach)
        if 2 * reach > steps:
            assert total is not None
            return total
        b, a, reach = b + a * _delayed(b, reach), a * a, 2 * reach


def _halved(a: Tensor, b: Tensor) -> Tensor:
    """The solution from h = 0 on. `a` [T, ...], or [1, ...] where it does not change."""
    T, moving = len(b), len(a) > 1
    if T == 1:
        return b
    (a0, a1), (b0, b1) = (a[0::2], a[1::2]) if moving else (a, a), (b[0::2], b[1::2])
    odd = _halved(a1 * a0[: T // 2], a1 * b0[: T // 2] + b1)
    even = torch.cat([b0[:1], (a0[1:] if moving else a0) * odd[: len(b0) - 1] + b0[1:]])
    h = torch.stack([even[: T // 2], odd], 1).flatten(0, 1)
    return torch.cat([h, even[-1:]]) if T % 2 else h


def _delayed(x: Tensor, steps: int) -> Tensor:
    return torch.cat([torch.zeros_like(x[:steps]), x[:-steps]])


def _fixed(a: Tensor, h: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    h = a * h + b
    return h, h


def _moving(_: Any, h: Tensor, ab: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return _fixed(ab[0], h, ab[1])


def _admit(a: Any, b: Any, h0: Any) -> tuple[Tensor, Tensor]:
    if not isinstance(b, Tensor) or not b.is_floating_point():
        came = b.dtype if isinstance(b, Tensor) else type(b).__name__
        raise TypeError(f"linear_scan(a, b): b is a floating tensor [T, batch, ..., neurons], not {came}.")
    if b.dim() == 0 or len(b) == 0:
        raise ValueError(
            f"linear_scan(a, b): b has shape {tuple(b.shape)}; expected time first, [T, ...], with at least one time step."
        )
    admitted = []
    for name, x, shape in (("a", a, b.shape), ("h0", h0, b.shape[1:])):
        if not isinstance(x, Tensor):
            x = torch.tensor(float(x), dtype=b.dtype, device=b.device)
        if x.dim() > len(shape) or any(m not in (1, n) for m, n in zip(x.shape[::-1], shape[::-1])):
            raise ValueError(
                f"linear_scan(a, b, h0): {name} has shape {tuple(x.shape)}, which does not broadcast to {tuple(shape)}, "
                f"the shape of b{'' if name == 'a' else ' at one time step'}."
            )
        if not x.is_floating_point() or (x.dim() and torch.promote_types(x.dtype, b.dtype) != b.dtype):
            raise TypeError(f"linear_scan(a, b, h0): {name} is {x.dtype} and b {b.dtype}: give {name}.to({b.dtype}).")
        admitted.append(x)
    return admitted[0], admitted[1]
