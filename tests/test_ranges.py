"""What the writer of a program leaves out, and what it believes of numbers, against random programs run on special numbers."""

import math
import random

import pytest
import torch
from helpers import trace

from snn_functional import surrogate
from snn_functional.kernels._program import Const, Value
from snn_functional.kernels._writer import Writer


DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]

UNARY = {
    name: getattr(torch, name)
    for name in "neg abs exp expm1 tanh atan erf sqrt sign floor ceil round trunc cos log".split()
}
BINARY = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "min": torch.minimum,
    "max": torch.maximum,
}
COMPARED = {name: getattr(torch, name) for name in "lt le gt ge eq ne".split()}
NUMBERS = [0.0, -0.0, 1.0, -1.0, 0.5, 2.0, -3.0, 2.0**-10, 2.0**13, math.inf, -math.inf, math.nan]


def special(dtype, seed):
    of = torch.finfo(dtype)
    numbers = [
        0.0,
        1.0,
        0.5,
        2.0,
        3.0,
        1e-3,
        math.inf,
        of.max,
        of.max / 2,
        of.smallest_normal,
        of.smallest_normal * of.eps,
    ]
    numbers = torch.tensor([math.nan, *numbers, *(-x for x in numbers), *range(-40, 40, 7)], dtype=torch.float64).to(
        dtype
    )
    return numbers[torch.randperm(len(numbers), generator=torch.Generator().manual_seed(seed))]


def same(a, b):
    equal = (a == b) & (a.signbit() == b.signbit()) if a.is_floating_point() else a == b
    return bool((equal | (a.isnan() & b.isnan())).all())


class Random:
    """A program written line by line, and beside each operand what torch makes of the same operations, nothing left out."""

    def __init__(self, seed, dtype):
        self.rng, self.dtype = random.Random(seed), dtype
        self.write = Writer(exact=True)
        leaves = [Value(f"a{i}", dtype) for i in range(3)]
        self.values = {leaf: special(dtype, seed + i) for i, leaf in enumerate(leaves)}
        self.pairs = [(leaf, self.values[leaf]) for leaf in leaves]

    def operand(self):
        if self.rng.random() < 0.25:
            number = self.rng.choice(NUMBERS)
            return number, torch.full_like(self.pairs[0][1], number)
        return self.rng.choice(self.pairs)

    def where(self):
        """Often as a clamp has it, or as what is not finite is taken out."""
        op, (x, x_) = self.rng.choice(sorted(COMPARED)), self.rng.choice(self.pairs)
        (b, b_), (c, c_) = self.operand(), self.operand()
        left, left_ = (self.write.line("abs", self.dtype, x), x_.abs()) if self.rng.random() < 0.3 else (x, x_)
        condition = self.write.line(op, self.dtype, left, b, result=torch.bool)
        truth = COMPARED[op](left_, b_)
        if self.rng.random() < 0.5:
            return self.write.line("where", self.dtype, condition, x, c), torch.where(truth, x_, c_)
        return self.write.line("where", self.dtype, condition, c, x), torch.where(truth, c_, x_)

    def line(self):
        kind = self.rng.random()
        if kind < 0.3:
            return self.where()
        if kind < 0.5:
            op, (a, a_) = self.rng.choice(sorted(UNARY)), self.rng.choice(self.pairs)
            return self.write.line(op, self.dtype, a), UNARY[op](a_)
        op, (a, a_), (b, b_) = self.rng.choice(sorted(BINARY)), self.operand(), self.operand()
        if self.rng.random() < 0.3:
            b, b_ = a, a_
        if op in ("min", "max") and bool(((a_ == 0) & (b_ == 0)).any()):
            op = "add"  # of 0.0 and -0.0 torch's own is either
        return self.write.line(op, self.dtype, a, b), BINARY[op](a_, b_)

    def check(self, operand, expected):
        if isinstance(operand, Const):
            found = torch.full_like(expected, operand.value)
        else:
            found = self.values.setdefault(operand, expected)
        assert same(found, expected), (operand, self.write._made.get(operand))
        known = self.write.range(operand)
        numbers = expected[~expected.isnan()].double()
        assert known.nan or len(numbers) == len(expected), (known, operand)
        assert bool(((known.low <= numbers) & (numbers <= known.high)).all()), (known, numbers)
        assert known.minus or not bool(((expected == 0) & expected.signbit()).any()), (known, operand)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nothing_is_left_out_that_shows_and_no_number_leaves_its_range(dtype):
    for seed in range(150):
        program = Random(seed, dtype)
        for _ in range(25):
            pair = program.line()
            program.check(*pair)
            program.pairs.append(pair)


SURROGATES = [
    surrogate.ATan(), surrogate.ATan(0.01), surrogate.ATan(-3.0), surrogate.Heaviside(), surrogate.FastSigmoid(), surrogate.FastSigmoid(5),
    surrogate.FastSigmoid(1e-3), surrogate.Sigmoid(), surrogate.Sigmoid(1e3), surrogate.StraightThrough(), surrogate.Triangular(),
    surrogate.Triangular(0.1), surrogate.SpikeRateEscape(), surrogate.SpikeRateEscape(0.1, 0.5), surrogate.LSO(), surrogate.LSO(1.0),
    surrogate.SFS(), surrogate.SFS(5.0, 100.0), surrogate.Custom(torch.erf), surrogate.Custom(lambda u: torch.exp(-u * u)),
]  # fmt: skip
INFINITE = [
    surrogate.FastSigmoid(-1.0), surrogate.LSO(2.0), surrogate.Custom(lambda u: u * u), surrogate.Custom(lambda u: u / u),
    surrogate.Custom(lambda u: surrogate.Triangular(torch.finfo(u.dtype).max / 4).shadow(u)),
]  # fmt: skip


def spikes(function, dtype):
    return trace(
        lambda mem, threshold: [function(mem - threshold)], [torch.ones(2, dtype=dtype), torch.ones((), dtype=dtype)]
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_surrogates_shadow_costs_nothing(dtype):
    bare = spikes(surrogate.fires, dtype)
    for function in SURROGATES:
        assert spikes(function, dtype) == bare, function


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_shadow_that_may_be_infinite_shows(dtype):
    for function in INFINITE:
        assert spikes(function, dtype).lines[-2].op == "sub", function


def test_a_long_program_is_no_recursion():
    write, x = Writer(), Value("a0", torch.float32)
    for i in range(5000):
        x = write.line("mul", torch.float32, write.line("sin", torch.float32, x), i + 2)
    assert write.range(x).nan and write.range(x).high < 6000
    assert len(write.program([Value("a0", torch.float32)], [x]).lines) == 10_000


@pytest.mark.parametrize("exact", [True, False])
def test_zeros_are_left_out_where_they_do_not_show(exact):
    x = Value("a0", torch.float32)
    write = Writer(exact)
    line = lambda op, *operands: write.line(op, torch.float32, *operands)
    assert (
        line("sub", x, 0.0) == line("add", x, -0.0) == line("mul", x, 1) == line("div", x, 1) == line("mul", 1, x) == x
    )
    assert (line("add", x, 0.0) == x) is (line("add", 0.0, x) == x) is (line("sub", x, -0.0) == x) is not exact
    size = line("abs", x)
    assert line("add", size, 0.0) == line("add", 0.0, size) == line("sub", size, -0.0) == size
    finite = line("where", write.line("lt", torch.float32, size, math.inf, result=torch.bool), x, 0.0)
    assert line("sub", x, x) != Const(0.0, torch.float32) == line("sub", line("tanh", finite), line("tanh", finite))
    assert line("mul", x, 0.0) != line("mul", x, -0.0)
