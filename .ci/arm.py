"""python .ci/arm.py FLAG ...: scans whose kernels are run by an emulated Arm, against the loop. `.ci/arm` says what that needs.

All is as ever, but for what `load` gives: a function that writes the arrays and tensors of its call into a file, has them read, used
and written back by an Arm program around the printed text, and puts what came back in their place.
"""

import ctypes
import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optree
import torch
from steps import leaves, RandomStep
from torch import Tensor
from torch.func import grad, jvp, vmap

import snn_functional as snf
from snn_functional.kernels import _build, _cpu


MAIN = r"""
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

extern "C" void run(const void*, const void*, const void*);

static FILE* file;
static int64_t number() { int64_t n; if (fread(&n, 8, 1, file) != 1) exit(2); return n; }

// Each block stands as far from a multiple of 64 as the tensor did that it is a copy of.
static char* block(int64_t bytes, int64_t shift) {
    char* p = (char*)aligned_alloc(64, (bytes + shift + 127) / 64 * 64) + shift;
    if (bytes && fread(p, 1, bytes, file) != (size_t)bytes) exit(3);
    return p;
}

int main(int, char** names) {
    file = fopen(names[1], "rb");
    const int64_t arrays = number(), tensors = number(), scratch = number();
    char* given[3] = {0, 0, 0};
    for (int i = 0; i < arrays; ++i) given[i ? i + 1 : 0] = block(number(), 0);
    int64_t* bytes = (int64_t*)calloc(tensors + 1, 8);
    char** at = (char**)calloc(tensors + 1, 8);
    at[0] = (char*)malloc(scratch);
    for (int i = 1; i <= tensors; ++i) {
        bytes[i] = number();
        const int64_t shift = number();
        at[i] = bytes[i] ? block(bytes[i], shift) : 0;
    }
    run(given[0], at, given[2]);
    file = fopen(names[2], "wb");
    for (int i = 1; i <= tensors; ++i) if (bytes[i] && fwrite(at[i], 1, bytes[i], file) != (size_t)bytes[i]) exit(4);
    return fclose(file);
}
"""

calls: list[Sequence[Any]] = []  # the tensors of the call that is going on
runs = 0


class Emulated:
    """`run` of a text, on Arm."""

    argtypes: Any = None
    restype: Any = None

    def __init__(self, folder: Path, source: str, flags: Sequence[str]) -> None:
        self.folder = folder / hashlib.sha256(source.encode()).hexdigest()[:16]
        if not self.folder.exists():
            self.folder.mkdir()
            (self.folder / "kernel.cpp").write_text(source)
            (self.folder / "main.cpp").write_text(MAIN)
            command = [
                "aarch64-linux-gnu-g++",
                *_build.PORTABLE,
                *flags,
                "-static",
                "-pthread",
                "-o",
                "run",
                "kernel.cpp",
                "main.cpp",
            ]
            subprocess.run(command, cwd=self.folder, check=True)

    def __call__(self, numbers: Any, addresses: Any, *more: Any) -> None:
        global runs
        runs += 1
        tensors = [x if x is not None and x.numel() else None for x in calls[-1]]
        at = [0 if x is None else x.data_ptr() for x in calls[-1]]
        assert at == list(addresses)[1:], "the addresses are not those of scratch and tensors"
        scratch = numbers[3] * numbers[6] + 64  # threads, each with so many bytes
        head = [1 + len(more), len(tensors), scratch]
        content = _numbers(*head) + b"".join(_numbers(ctypes.sizeof(x)) + bytes(x) for x in (numbers, *more))
        memory = [None if x is None else (ctypes.c_char * _bytes(x)).from_address(x.data_ptr()) for x in tensors]
        for x, place in zip(memory, at):
            content += _numbers(0, 0) if x is None else _numbers(len(x), place % 64) + x.raw
        (self.folder / "in").write_bytes(content)
        subprocess.run(["qemu-aarch64", "./run", "in", "out"], cwd=self.folder, check=True)
        result, first = (self.folder / "out").read_bytes(), 0
        for x in memory:
            if x is not None:
                ctypes.memmove(x, result[first : first + len(x)], len(x))
                first += len(x)
        assert first == len(result)


def _numbers(*values: int) -> bytes:
    return bytes((ctypes.c_int64 * len(values))(*values))


def _bytes(x: Tensor) -> int:
    """From the first to the last element, wherever they stand."""
    return (1 + sum((n - 1) * stride for n, stride in zip(x.shape, x.stride()))) * x.element_size()


def emulate(folder: Path, flags: Sequence[str]) -> None:
    call = _cpu.Kernel.launch

    def noted(self: Any, *arguments: Any) -> None:
        calls.append(
            next(x for x in arguments if isinstance(x, list | tuple) and any(isinstance(t, Tensor) for t in x))
        )
        try:
            call(self, *arguments)
        finally:
            calls.pop()

    _cpu.Kernel.launch = noted
    _cpu.load = lambda source: Emulated(folder, source, flags)


def neuron(name: str, dtype: torch.dtype = torch.float32, **numbers: float) -> tuple[Any, ...]:
    bundle, unit = getattr(snf, name), 40 if name == "izhikevich" else 1
    params = bundle.Params(
        **{k: torch.full((7,), v, dtype=dtype) + torch.rand(7, dtype=dtype) / 50 for k, v in numbers.items()}
    )
    x = (unit * (torch.randn(9, 3, 7) / 2 + 0.3)).to(dtype).mT.contiguous().mT  # strided
    state = optree.tree_map(lambda s: (unit * torch.randn(3, 7)).to(s.dtype), bundle.init(params, x[0]))
    return bundle.step, params, state, x


def counting(p: Tensor, s: Any, x: Tensor) -> Any:
    """Integer and boolean states, and integers that wrap around."""
    count, ready, mem = s
    fired = (mem > 0.3) & ready
    count = torch.where(fired, count * 3 + 2**6, count - 1)
    return (fired, count, mem * p), (count, ~fired | (count > 5), mem * 0.5 + x)


def special(p: Any, s: Tensor, x: Tensor) -> Any:
    """NaN, inf and zeros of both signs, through all that compares and selects."""
    y = (
        torch.minimum(x, s),
        torch.maximum(x, p),
        x.clamp(-0.5, 0.5),
        torch.relu(x),
        x.abs(),
        torch.sign(x),
        -x / s,
        torch.floor(x),
    )
    return y, torch.where(x > s, x - s, s * x)


def functions(p: Tensor, s: Tensor, x: Tensor) -> Any:
    """What is not exact: within rounding of torch's."""
    a, b = (
        torch.exp(-x * x) + torch.tanh(s) + torch.sigmoid(x),
        torch.erf(x) + torch.log1p(x * x) + torch.sin(s) * torch.cos(p),
    )
    return (a, b), torch.atan(a * b) + (1 + x * x) ** 0.7


torch.manual_seed(0)
HALVES = (torch.bfloat16, torch.float16)
MANY = torch.randn(20, 16, 3500) + 0.3  # several blocks, two threads, an output that is written past the cache
ODD = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, -0.0, 1.0, -2.5])
PROGRAMS: dict[str, tuple[Any, ...]] = {
    "leaky": neuron("leaky", beta=0.9, threshold=0.8),
    "leaky, float64": neuron("leaky", torch.float64, beta=0.9, threshold=0.8),
    **{f"leaky, {dtype}": neuron("leaky", dtype, beta=0.9, threshold=0.8) for dtype in HALVES},
    "leaky, large": (snf.leaky_step, snf.LeakyParams(0.9), snf.leaky_init(snf.LeakyParams(0.9), MANY[0]), MANY),
    "synaptic": neuron("synaptic", alpha=0.8, beta=0.7),
    "alpha": neuron("alpha", alpha=0.9, beta=0.8),
    "adaptive_leaky": neuron("adaptive_leaky", beta=0.9, rho=0.95, jump=0.2),
    "izhikevich": neuron("izhikevich"),
    "delta_leaky": neuron("delta_leaky", beta=0.9),
    "integers and truths": (
        counting, torch.rand(7), (torch.arange(7, dtype=torch.uint8), torch.tensor([True, False] * 3 + [True]), torch.randn(7)),
        torch.randn(9, 7),
    ),
    "NaN, inf and zeros": (special, ODD, ODD.roll(1), torch.stack([ODD.roll(i) for i in range(7)])),
    "functions": (functions, torch.rand(7), torch.randn(7), torch.randn(9, 7)),
    **{f"random step {seed}": (RandomStep(seed, 2, 2, 2, True), *leaves(RandomStep(seed, 2, 2, 2, True), 5, (3, 5), torch.float32, seed))
       for seed in range(6)},
}  # fmt: skip
ROUNDED = ("functions", "alpha")  # what is not exact: alpha takes logarithms


def compare(name: str, step: Any, params: Any, state: Any, inputs: Any) -> None:
    """The loop's bits forward, its gradients and tangents to rounding."""
    scan = lambda kind: lambda *given: snf.scan(step, *given, kind=kind)
    given = params, state, inputs
    right = scan("loop")(*given)
    exact = {} if name in ROUNDED else {"rtol": 0.0, "atol": 0.0}
    same(scan("fused")(*given), right, **exact)
    if name.startswith(("integers", "NaN")):
        return
    weights = optree.tree_map(torch.randn_like, right)
    products = lambda result: optree.tree_leaves(optree.tree_map(lambda x, w: (x * w).float().sum(), result, weights))
    loss = lambda kind: lambda *given: sum(products(scan(kind)(*given)))
    half = any(x.dtype in HALVES for x in optree.tree_leaves(inputs))
    near = {"rtol": 0.05, "atol": 0.05} if half else {"rtol": 1e-3, "atol": 1e-3}
    same(grad(loss("fused"), (0, 1, 2))(*given), grad(loss("loop"), (0, 1, 2))(*given), **near)
    if name in ("leaky", "functions"):
        moves = optree.tree_map(torch.randn_like, given)
        second = lambda kind: jvp(grad(loss(kind), (0, 1, 2)), given, moves)[1]
        same(second("fused"), second("loop"), **near)
        several = optree.tree_map(lambda x: torch.stack([x, 0.9 * x]), given)
        same(vmap(grad(loss("fused")))(*several), vmap(grad(loss("loop")))(*several), **near)


def same(found: Any, right: Any, **tolerance: float) -> None:
    for a, b in zip(optree.tree_leaves(found), optree.tree_leaves(right), strict=True):
        torch.testing.assert_close(a, b, equal_nan=True, **tolerance)


def main(flags: Sequence[str]) -> int:
    torch.set_num_threads(2)
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        emulate(Path(folder), flags)
        kernels = lambda: len(list(Path(folder).iterdir()))
        for name, program in PROGRAMS.items():
            before, built = runs, kernels()
            try:
                compare(name, *program)
                print(
                    f"{name}: the loop's numbers, {kernels() - built} kernels built, {runs - before} calls", flush=True
                )
            except AssertionError as error:
                failed += 1
                print(f"{name}: NOT the loop's numbers. {error}", flush=True)
    print(f"{len(PROGRAMS) - failed} of {len(PROGRAMS)} programs give the loop's numbers on Arm ({' '.join(flags)})")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
