"""The Triton kernels against the definition: on a GPU where there is one, else through Triton's interpreter on the CPU.

The interpreter runs the printed text, line by line, on numpy. It has no libdevice: here that is torch. What it cannot show, the
last tests ask of Triton's compiler, which builds for a GPU that is not there.
"""

import importlib.util
import inspect
import itertools
import linecache
import math
import os
import re
import subprocess
import sys

import optree
import pytest
import torch
from helpers import assert_allclose, assert_equal, dot, each_neuron, needs_kernels, sweep
from steps import leaves, RandomStep
from test_kernels import STRIDES
from test_recurrent import CASES as RECURRENT, IMAGES, transforms, weighed, world
from torch.func import grad, jvp, vmap

import snn_functional as snf
from snn_functional import kernels
from snn_functional.kernels import _gpu, _gpu_rows, _kernels, _triton


CUDA = torch.cuda.is_available()
if not importlib.util.find_spec("triton"):
    pytest.skip("Triton is not installed (`pip install triton`)", allow_module_level=True)
if not CUDA:
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported

import numpy as np  # noqa: E402
import triton.language as tl  # noqa: E402
from triton.language.extra import libdevice  # noqa: E402


pytestmark = [needs_kernels, pytest.mark.long]  # the interpreter takes its time
DEVICE = "cuda" if CUDA else "cpu"
FUNCTIONS = (
    """exp exp2 expm1 log log1p log2 sin cos tan tanh sinh cosh asin acos atan erf erfc trunc pow atan2 fmod""".split()
)


def of_torch(function):
    def interpreted(*blocks):
        from triton.runtime.interpreter import TensorHandle

        result = function(*(torch.from_numpy(np.array(x.handle.data)) for x in blocks)).numpy()
        return tl.tensor(TensorHandle(result, blocks[0].dtype), blocks[0].type)

    return interpreted


@pytest.fixture(autouse=True)
def _through_triton(monkeypatch):
    if not CUDA:
        monkeypatch.setitem(_kernels.BACKENDS, "cpu", _kernels.BACKENDS["cuda"])
        monkeypatch.setitem(_kernels.NETWORKS, "cpu", _kernels.NETWORKS["cuda"])
        for name in FUNCTIONS:
            monkeypatch.setattr(libdevice, name, of_torch(getattr(torch, name)))
        monkeypatch.setattr(libdevice, "rint", of_torch(torch.round))
    monkeypatch.setattr(snf._scan._known, "_known", snf._identity.Registry(100))
    monkeypatch.setattr(kernels._kernels, "_kernels", snf._identity.Registry(100))
    with np.errstate(all="ignore"):  # numpy warns of what is meant: 1 / 0, NaN
        yield


def placed(tree):
    return optree.tree_map(lambda x: x.to(DEVICE) if isinstance(x, torch.Tensor) else x, tree)


def agree(step, params, state, inputs, rtol=1e-5, atol=1e-5, exact=True, reverse=False):
    """The loop's values to the bit and the loop's gradients, a random cotangent on each output and last state."""
    arguments = placed((params, state, inputs))
    run = lambda kind: lambda *a: snf.scan(step, *a, kind=kind, reverse=reverse)
    expected = run("loop")(*arguments)
    tolerance = dict(rtol=0, atol=0) if exact else dict(rtol=rtol, atol=atol)
    assert_allclose(run("fused")(*arguments), expected, **tolerance, equal_nan=True)
    weights = optree.tree_map(lambda x: torch.randn_like(x) if x.is_floating_point() else x * 0, expected)
    reals = [x.is_floating_point() for x in optree.tree_leaves(arguments)]
    flat, tree = optree.tree_flatten(arguments)

    def loss(kind):
        def f(floats):
            given = iter(floats)
            results = run(kind)(*optree.tree_unflatten(tree, [next(given) if r else x for r, x in zip(reals, flat)]))
            return dot(*([x for x in optree.tree_leaves(t) if x.is_floating_point()] for t in (results, weights)))

        return f

    floats = [x for r, x in zip(reals, flat) if r]
    assert_allclose(grad(loss("fused"))(floats), grad(loss("loop"))(floats), rtol=rtol, atol=atol, equal_nan=True)
    return loss, floats


@each_neuron
def test_every_neuron_has_the_loops_bits(case):
    if case.pointwise:
        # MKL's square root, which is the loop's on a CPU, is an ulp off.
        exact = not case.rounded and (CUDA or case.name != "balanced_resonate_and_fire")
        agree(*case.world(T=5, batch=2, n=5), rtol=1e-4, atol=1e-4, exact=exact)


def leaky(x, params=None):
    params = params or snf.LeakyParams(torch.tensor(0.9), torch.tensor(0.8))
    return snf.leaky_step, params, optree.tree_map(torch.randn_like, snf.leaky_init(params, x[0])), x


@pytest.fixture(params=["kernel", "calls"])
def how(request, monkeypatch):
    """Whole rows in one kernel, or calls one after another."""
    if request.param == "calls":
        monkeypatch.setattr(_kernels, "NETWORKS", {})
    return request.param


@pytest.mark.parametrize("name", [name for name in RECURRENT if name not in IMAGES])
def test_steps_that_hold_products(name, how):
    step, params, state, xs = placed(world(name, T=4, batch=2, dtype=torch.float32))
    assert {"kernel", "calls"} & {part.how for part in snf.explain(step, params, state, xs).stages} == {how}
    of = lambda kind: lambda *a: weighed(snf.scan(step, *a, kind=kind))
    assert_allclose(*(of(kind)(params, state, xs) for kind in ("auto", "loop")), rtol=1e-4, atol=1e-4)
    assert_allclose(*(grad(of(kind), (0, 1, 2))(params, state, xs) for kind in ("auto", "loop")), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows, n, m, T", [((1,), 1, 17, 1), ((17,), 20, 3, 5), ((2, 9), 5, 33, 6)])
@pytest.mark.parametrize("reverse", [False, True])
def test_products_of_any_size(rows, n, m, T, reverse):
    step, params, state, xs = placed(world("two_layers", T=T, n=n, m=m, rows=rows, dtype=torch.float32))
    of = lambda kind: lambda *a: snf.scan(step, *a, kind=kind, reverse=reverse)
    assert_equal(
        *(of(kind)(params, state, xs) for kind in ("auto", "loop"))
    )  # numbers on a grid: any order has these bits
    slopes = (
        grad(lambda *a, kind=kind: weighed(of(kind)(*a)), (0, 1, 2))(params, state, xs) for kind in ("auto", "loop")
    )
    assert_allclose(*slopes, rtol=1e-4, atol=1e-4)


@sweep("name", ["biased", "graded", "two_layers", "gated"], of=("biased",))
def test_products_under_every_transform(name, how):
    fast, slow = (transforms(*placed(world(name, T=2, batch=2, n=3)), kind) for kind in ("auto", "loop"))
    for (what, a), (_, b) in zip(fast, slow, strict=True):
        assert_allclose({what: a}, {what: b})


def test_a_row_that_is_too_wide_is_in_calls():
    for n, how in ((256, "kernel"), (257, "calls")):
        stages = snf.explain(*placed(world("feedback", n=n, T=2, batch=1))).stages
        assert {"kernel", "calls"} & {part.how for part in stages} == {how}


@pytest.mark.parametrize("T, neurons", [(1, 7), (2, 513), (33, 1)])
@pytest.mark.parametrize("reverse", [False, True])
def test_sizes(T, neurons, reverse):
    agree(*leaky(torch.randn(T, neurons)), rtol=1e-4, atol=1e-4, reverse=reverse)


def test_blocks_of_four_warps():
    agree(*leaky(torch.randn(2, 3, 11000)), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("input, cotangent", list(zip(STRIDES, reversed(STRIDES))))
def test_any_strides(input, cotangent):
    x, w = (STRIDES[how](torch.randn(6, 3, 4, device=DEVICE)) for how in (input, cotangent))
    step, params, state, _ = placed(leaky(x))
    end = torch.randn(4, device=DEVICE).expand(3, 4)

    def loss(kind):
        def f(*arguments):
            spks, last = snf.scan(step, *arguments, kind=kind)
            return (spks * w).sum() + (last.mem * end).sum()

        return f

    fast, slow = (grad(loss(kind), (0, 1, 2))(params, state, x) for kind in ("fused", "loop"))
    assert_allclose(fast, slow, rtol=1e-4, atol=1e-4)
    assert_equal(snf.scan(step, params, state, x, kind="fused"), snf.scan(step, params, state, x, kind="loop"))


@pytest.mark.parametrize("shapes", [((), (4,)), ((3, 1), ()), ((3, 4), (2, 1, 1)), ((2, 3, 1), (1, 4))], ids=str)
def test_params_of_any_shape(shapes):
    params = snf.LeakyParams(*(torch.rand(shape) / 5 + 0.7 for shape in shapes))
    agree(*leaky(torch.randn(18, 2, 3, 4), params), rtol=1e-4, atol=1e-4)


def test_under_transforms():
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    number = lambda value: torch.tensor(value, dtype=torch.float64)
    step, params, state, x = leaky(x, snf.LeakyParams(number(0.9), number(0.8)))
    loss, floats = agree(step, params, state, x, 1e-9, 1e-9)
    moves = [torch.randn_like(y) for y in floats]
    close = lambda f: assert_allclose(f("fused"), f("loop"), rtol=1e-9, atol=1e-9)
    close(lambda kind: jvp(loss(kind), (floats,), (moves,)))
    close(lambda kind: jvp(grad(loss(kind)), (floats,), (moves,)))
    close(lambda kind: grad(lambda y: dot(grad(loss(kind))(y), moves))(floats))
    pairs = [torch.stack([y, 0.9 * y]) for y in floats]
    close(lambda kind: vmap(grad(loss(kind)))(pairs))
    close(lambda kind: vmap(lambda y: grad(loss(kind))([y, *floats[1:]]))(pairs[0]))


def in_half_precision(dtype, per_neuron, T=18):
    x = (torch.randn(T, 3, 30) * 0.7).to(dtype)
    x[2, :, 0], x[3, :, 1], x[4, :, 2] = math.nan, math.inf, 6e-8
    params = snf.LeakyParams(0.9, 0.8)
    if per_neuron:
        params = optree.tree_map(lambda p: (p + torch.rand(30) * 0.05).to(dtype), params)
    return leaky(x, params)


@pytest.mark.parametrize("dtype, per_neuron", [(torch.bfloat16, False), (torch.float16, True)])
def test_half_precision_rounds_where_torch_rounds(dtype, per_neuron):
    agree(*in_half_precision(dtype, per_neuron, T=6), rtol=0.1, atol=0.5)


@pytest.mark.parametrize("number", [torch.float32, torch.float64])
def test_float64_computes_in_float64(number):
    params = snf.LeakyParams(torch.tensor(0.9, dtype=number), torch.rand(5).to(number) + 0.5)
    agree(*leaky(torch.randn(20, 3, 5, dtype=torch.float64), params), 1e-6, 1e-6)
    step = lambda p, s, x: (torch.exp(-s) * 0.1 + x / 3.3, 0.7 * s + x)
    agree(step, None, torch.randn(3, dtype=torch.float64), torch.randn(9, 3, dtype=torch.float64), 1e-13, 1e-13, False)


def with_integers_and_truths():
    def refractory(params, state, x):
        mem, rest, ever, small = state
        x, gate = x
        mem = params * mem + torch.where((rest > 0) | gate, torch.zeros_like(x), x)
        spk = snf.surrogate.ATan()(mem - 1)
        fired = spk.detach() > 0
        rest = torch.where(fired, torch.full_like(rest, 3), (rest - 1).clamp(min=0))
        return (spk, rest, ~ever, ever + gate, ever < gate), (
            mem - spk,
            rest,
            ever | fired,
            (small * 3 - rest.to(torch.uint8)).abs(),
        )

    state = torch.zeros(5), torch.zeros(5, dtype=torch.int64), torch.zeros(5, dtype=torch.bool)
    state = *state, torch.arange(5, dtype=torch.uint8)
    return refractory, torch.tensor(0.9), state, (torch.randn(18, 5) * 1.5, torch.rand(18, 5) < 0.1)


def test_integer_and_boolean_states_and_inputs():
    agree(*with_integers_and_truths())


def test_nan_and_infinity_pass_as_in_the_loop():
    x = torch.randn(12, 20)
    x[3, ::5], x[5, 1::5], x[7, 2::5] = math.nan, math.inf, -math.inf
    agree(*leaky(x))
    extremes = lambda p, s, x: (
        (s.clamp(-1, 1), torch.minimum(x, s), x.abs(), x.sign(), x.nan_to_num()),
        torch.max(s, -x),
    )
    agree(extremes, None, torch.randn(20), x)


def test_states_may_change_places_and_be_constants():
    step = lambda p, s, x: (s[2] * x, (s[1], s[0], torch.ones_like(x) * 0.5, p * torch.ones_like(x)))
    agree(step, torch.tensor(0.3), tuple(torch.randn(4, 6)), torch.randn(5, 6))
    agree(lambda p, s, x: (p * x + 1, s), torch.rand(6), None, torch.randn(5, 6))


def test_tensors_without_memory_of_their_own():
    """Forward mode's zeros, a wrapper whose transform is over, and a view that is negated lazily."""
    x, left = torch.randn(30, 40, device=DEVICE), []
    grad(lambda x: left.append(x) or x.sum())(x)
    zeros = torch._efficientzerotensor(x.shape, device=DEVICE)
    negated = torch.complex(x, x).conj().imag
    assert torch._C._functorch.is_gradtrackingtensor(left[0]) and negated.is_neg()
    step, params, state, _ = placed(leaky(torch.randn(30, 40)))
    plan = snf._scan._known.prepare(step, params, state, x, 30).known.plan
    forward, backward = plan.forward((True, True), DEVICE), plan.backward((True, True), (3,), DEVICE)

    def run(x):
        leaves, size = (params.beta, params.threshold, state.mem, x), (torch.Size([40]), 30, False)
        ys, last, points = forward(leaves, *size, 6)
        return ys, last, backward(leaves, [x, x[0]], points, *size, 6)

    for without, same in ((zeros, torch.zeros_like(x)), (left[0], x), (negated, -x)):
        assert_equal(run(without), run(same))


@pytest.mark.parametrize("seed", range(6))
def test_random_steps(seed):
    dtype, lanes = (torch.float32, torch.float64)[seed % 2], [(7,), (3, 5), (2, 3, 4)][seed % 3]
    step = RandomStep(seed, 1 + seed % 3, 2, 2)
    agree(step, *leaves(step, 5, lanes, dtype, seed), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_random_smooth_steps(seed):
    step = RandomStep(seed, 2, 2, 2, exact=False)
    agree(step, *leaves(step, 4, (2, 3), torch.float64, seed), rtol=1e-9, atol=1e-9, exact=False)


def every_function(p, s, x):
    names = (
        "exp exp2 expm1 log1p sin cos tan tanh sinh cosh asin acos atan erf erfc floor ceil trunc round sqrt log log2"
    )
    y = (x.abs() + 0.1) / 3
    more = torch.pow(y, p), torch.atan2(x, s), torch.rsqrt(y), torch.sigmoid(x), x.sign(), y.abs()
    return (*(getattr(torch, name)(y) for name in names.split()), *more), 0.5 * s + x


def of_every_function(dtype):
    return torch.tensor(0.7, dtype=dtype), torch.randn(8).to(dtype), torch.randn(3, 8).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_function_of_the_table(dtype):
    agree(every_function, *of_every_function(dtype), exact=False)


def test_a_gradient_without_checkpoints_makes_its_own():
    args = placed(leaky(torch.randn(20, 7)))
    prepared = snf._scan._known.prepare(*args, 20)
    plan, flat = prepared.known.plan, prepared.leaves
    uniform = (True, True)
    checkpoints = plan.forward(uniform, DEVICE)(flat, torch.Size([7]), 20, False, 6)[2]
    cotangents = [torch.randn(20, 7, device=DEVICE), torch.randn(7, device=DEVICE)]
    kernel = plan.backward(uniform, (0, 1, 3), DEVICE)
    given, own = (kernel(flat, cotangents, c, torch.Size([7]), 20, False, 6) for c in (checkpoints, []))
    assert_equal(own, given)
    assert kernel.wanted == (0, 1, 2, 3)


def test_one_kernel_serves_all_lengths_and_shapes(monkeypatch):
    texts = []
    load = _triton.load
    monkeypatch.setattr(_gpu, "load", lambda source: texts.append(source) or load(source))
    for T, lanes in ((18, (5,)), (19, (4, 6)), (33, (2, 1, 3))):
        agree(*leaky(torch.randn(T, *lanes)), rtol=1e-4, atol=1e-4)
    assert len(set(texts)) == len(texts) == 3  # forward, with checkpoints, backward


def test_a_kernel_is_made_without_a_file(tmp_path, monkeypatch):
    """Nothing on disk could be damaged, or written by somebody else, and then be run."""
    monkeypatch.setenv("SNN_FUNCTIONAL_CACHE", str(tmp_path))
    kernel = _triton.load("def kernel(x):\n    return x + 1\n")
    assert kernel(1) == 2 and inspect.getsource(kernel).startswith("def kernel(x)")
    assert _triton.load("def kernel(x):\n    return x + 1\n") is kernel and not list(tmp_path.iterdir())


def test_the_place_is_the_one_of_all_that_is_no_number(monkeypatch):
    step, params, state, x = leaky(torch.randn(4, 3))
    on_meta = params, optree.tree_map(lambda s: s.to("meta"), state), x.to("meta")
    with pytest.raises(kernels.Unsupported, match="there is no kernel for meta"):
        snf._scan._known.prepare(step, *on_meta, 4)
    monkeypatch.setitem(_kernels.BACKENDS, "meta", _kernels.BACKENDS["cuda"])
    monkeypatch.setattr(snf._scan._known, "_known", snf._identity.Registry(100))
    found = snf._scan._known.prepare(step, *on_meta, 4).leaves
    assert {leaf.device.type for leaf in found} == {"meta"}
    monkeypatch.setattr(snf._scan._known, "_known", snf._identity.Registry(100))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install triton" in snf.explain(step, *on_meta)


COMPILE = """
import pathlib, sys
from snn_functional.kernels import _triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
import triton
for path, pointers, block, warps in zip(*(sys.argv[i::4] for i in range(1, 5))):
    kernel = _triton.load(pathlib.Path(path).read_text())
    assert all(x.do_not_specialize for x in kernel.params if not x.is_constexpr)
    types = dict(zip(kernel.arg_names, pointers.split(",")))
    types = {name: types.get(name, "constexpr" if name == "BLOCK" else "i32") for name in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=types, constexprs={"BLOCK": int(block)})
    options = {"num_warps": int(warps), "enable_fp_fusion": False}
    built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assert built.asm["cubin"]
    print(built.asm["ptx"], "=" * 9)
"""
NAMES = {
    torch.float32: "*fp32", torch.float64: "*fp64", torch.float16: "*fp16", torch.bfloat16: "*i16", torch.bool: "*i1",
    torch.int64: "*i64", torch.uint8: "*u8",
}  # fmt: skip


def compiled(tmp_path, *runs):
    """For each of `runs`, the PTX of every kernel that it would launch, by Triton's compiler, for a GPU that need not be there."""
    found, ends = {}, [0]

    def seen(block, warps):
        def launch(kernel, tensors, *rest):
            module = sys.modules[kernel.fn.__module__ if hasattr(kernel, "fn") else kernel.__module__]
            path = tmp_path / module.__name__
            path.write_text("".join(linecache.getlines(module.__file__)))
            found[str(path)] = ",".join(NAMES[x.dtype] for x in tensors), str(block), str(warps)

        return launch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_gpu, "_launch", seen(256, 4))
        patch.setattr(_gpu_rows, "_launch", seen(_gpu_rows.BLOCK, _gpu_rows.WARPS))
        for run in runs:
            run()
            ends.append(len(found))
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    arguments = [text for path, given in found.items() for text in (path, *given)]
    done = subprocess.run([sys.executable, "-c", COMPILE, *arguments], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    texts = done.stdout.split("=" * 9)[:-1]
    return [texts[begin:end] for begin, end in itertools.pairwise(ends)]


def launch(step, params, state, inputs):
    """The kernels of a scan, and those of its gradient."""
    leaves, tree = optree.tree_flatten(placed((params, state, inputs)))
    leaves = [x.requires_grad_() if x.is_floating_point() else x for x in leaves]
    results = optree.tree_leaves(snf.scan(step, *optree.tree_unflatten(tree, leaves), kind="fused"))
    sum(x.sum() for x in results if x.requires_grad).backward()
    snf.scan(step, *optree.tree_unflatten(tree, [x.detach() for x in leaves]), kind="fused")


def test_the_compiler_keeps_every_rounding(tmp_path):
    def of_floats():
        launch(*leaky(torch.randn(3, 2, 4).mT))
        step = lambda p, s, x: (x / s, s * x + p)
        launch(step, torch.rand(4), torch.rand(3, 4) + 1, torch.rand(2, 4, 3).mT + 0.5)

    (texts,) = compiled(tmp_path, of_floats)
    assert len(texts) >= 4 and any("div.rn.f32" in text for text in texts)
    for text in texts:
        assert not re.search(r"\bfma\.|\bdiv\.(full|approx)|\.ftz", text)
    assert any("cp.async" in text for text in texts)  # inputs are fetched ahead


@pytest.mark.slow
def test_the_compiler_takes_every_type_and_operation(tmp_path):
    def of_every_type():
        launch(*with_integers_and_truths())
        for dtype in (torch.bfloat16, torch.float16, torch.float64):
            launch(*in_half_precision(dtype, True))
        for dtype in (torch.float32, torch.float64):
            snf.scan(every_function, *placed(of_every_function(dtype)), kind="fused")

    (texts,) = compiled(tmp_path, of_every_type)
    assert len(texts) >= 13


@pytest.mark.slow
def test_the_compiler_takes_products(tmp_path):
    def of(name, **sizes):
        step, params, state, xs = placed(world(name, T=3, batch=2, **sizes))
        leaves = [x.requires_grad_() for x in optree.tree_leaves(params)]
        results = optree.tree_leaves(snf.scan(step, params, state, xs))
        torch.autograd.grad(sum(x.sum() for x in results), leaves)

    texts, half = compiled(
        tmp_path, lambda: of("two_layers", n=20, dtype=torch.float32), lambda: of("feedback", dtype=torch.bfloat16)
    )
    assert len(texts) == len(half) == 2
    for text in texts:  # sums of products may be fused, but nothing is rounded to a tensor core's ten bits
        assert "tf32" not in text and "fma.rn.f32" in text


@pytest.mark.skipif(not CUDA, reason="needs a CUDA device")
def test_a_cuda_graph_captures_a_scan_and_cpu_numbers_get_gradients():
    step, params, state, x = leaky(torch.randn(20, 100, device="cuda"))
    on_gpu = placed(params)
    run = lambda: snf.scan(step, on_gpu, state, x, kind="fused")[0]
    expected, graph = run(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        spks = run()
    spks.zero_()
    graph.replay()
    assert torch.equal(spks, expected)
    loss = lambda kind: lambda p: snf.scan(step, p, state, x, kind=kind)[0].sum()
    assert_allclose(grad(loss("fused"))(params), grad(loss("loop"))(params), rtol=1e-4, atol=1e-4)
