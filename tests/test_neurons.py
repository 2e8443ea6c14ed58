"""The laws that every neuron keeps, on the list or new: each test runs over all of `helpers.CASES`."""

import copy
import dataclasses
import io
import pickle

import optree
import pytest
import torch
import torch.utils._pytree as torch_pytree
from helpers import (
    assert_allclose,
    assert_equal,
    at,
    backward,
    CASES,
    dot,
    each_case,
    each_neuron,
    each_pointwise,
    EXAMPLES,
    few_neurons,
    flat,
    FUSED,
    law,
    mixture,
    needs_kernels,
    needs_torch,
    ONE_EACH,
    scan,
    some_neurons,
    stacked,
    sweep,
    usual,
    World,
)
from hypothesis import given, settings, strategies as st
from torch.func import grad, jacfwd, jacrev, jvp, vjp, vmap
from torch.utils.checkpoint import checkpoint

import snn_functional as snf


ALL = (0, 1, 2)  # params, state, inputs
seeds = st.integers(0, 2**31)
REST_ELSEWHERE = (  # than at 0, or start where they do not rest
    "adex",
    "exponential_integrate_and_fire",
    "gated_lif",
    "hodgkin_huxley",
    "izhikevich",
    "izhikevich_euler",
    "short_term_plasticity",
)
sizes = st.fixed_dictionaries({"T": st.integers(1, 9), "batch": st.integers(1, 4), "n": st.integers(1, 9)})

# ------------------------------------------------------------------------------------------------ values


@each_case
@law
@given(seed=seeds, size=sizes)
def test_scan_is_the_step_in_a_loop(case, seed, size):
    torch.manual_seed(seed)
    world = step, params, state, inputs = case.world(**size)
    outputs, last = scan(*world)
    for t in range(size["T"]):
        output, state = step(params, state, at(inputs, t))
        assert_equal(at(outputs, t), output)
    assert_equal(last, state)


@each_case
@law
@given(seed=seeds, size=sizes, data=st.data())
def test_fold(case, seed, size, data):
    """Scanning the beginning, then the rest from the state it left, is scanning the whole."""
    torch.manual_seed(seed)
    step, params, state, inputs = world = case.world(**size | {"T": size["T"] + 1})
    cut = data.draw(st.integers(1, size["T"]))
    begin, between = scan(step, params, state, at(inputs, slice(cut)))
    rest, last = scan(step, params, between, at(inputs, slice(cut, None)))
    assert_equal((optree.tree_map(lambda *parts: torch.cat(parts), begin, rest), last), scan(*world))


@each_case
@law
@given(seed=seeds, size=sizes, data=st.data())
def test_causality(case, seed, size, data):
    """What comes at t changes no output before t."""
    torch.manual_seed(seed)
    step, params, state, inputs = world = case.world(**size)
    t = data.draw(st.integers(0, size["T"] - 1))
    outputs, _ = scan(*world)
    others, _ = scan(step, params, state, optree.tree_map(lambda x: torch.cat([x[:t], x[t:] + 1]), inputs))
    assert_equal(at(others, slice(t)), at(outputs, slice(t)))


@each_case
def test_reverse_is_the_scan_of_the_reversed_inputs(case):
    world = case.world()
    flipped = lambda tree: optree.tree_map(lambda x: x.flip(0), tree)
    outputs, last = scan(*world, reverse=True)
    assert_equal((flipped(outputs), last), scan(*world._replace(inputs=flipped(world.inputs))))


@each_case
@law
@given(seed=seeds, size=sizes)
def test_batch(case, seed, size):
    """vmap(scan) over the samples is the scan of the batch."""
    torch.manual_seed(seed)
    step, params, state, inputs = world = case.world(**size)
    one = lambda state, inputs: scan(step, params, state, inputs)
    case.same(vmap(one, in_dims=(0, 1), out_dims=(1, 0))(state, inputs), scan(*world))


@each_case
def test_population(case):
    """vmap(scan) over stacked params is a loop over the members."""
    step, _, state, inputs = case.world()
    members = [case.params(4) for _ in range(3)]
    run = lambda params: scan(step, params, state, inputs)
    case.same(vmap(run)(stacked(members)), stacked([run(params) for params in members]))


@each_pointwise
@law
@given(seed=seeds, size=sizes, data=st.data())
def test_params_broadcast_per_neuron_and_per_sample(case, seed, size, data):
    """Each neuron of a layer does what it would do by itself with its own numbers."""
    torch.manual_seed(seed)
    step, _, state, inputs = case.world(**size)
    batch, n = size["batch"], size["n"]
    b, i = data.draw(st.integers(0, batch - 1)), data.draw(st.integers(0, n - 1))
    for params in (case.params(n), case.params(batch, 1), case.params(batch, n), case.params(1)):
        outputs, last = scan(step, params, state, inputs)
        whole = optree.tree_map(lambda x: x.broadcast_to(batch, n), params)
        alone = scan(step, at(whole, b, i), at(state, b, i), at(inputs, slice(None), b, i))
        assert_equal((at(outputs, slice(None), b, i), at(last, b, i)), alone)


OTHER_SPIKES = {"multi_spike": {0.0, 1.0, 2.0}, "ternary": {-1.0, 0.0, 1.0}}


@each_case
def test_spikes_are_exactly_0_or_1(case):
    outputs = optree.tree_leaves(scan(*case.world(T=50))[0])[0]
    if case.spiking and case.name not in ("filtered", "nested", "readout"):
        assert set(outputs.unique().tolist()) == OTHER_SPIKES.get(case.name, {0.0, 1.0})
    else:
        assert 1 < len(outputs.unique())


@each_pointwise
def test_silence(case):
    """At rest, nothing comes of nothing."""
    zeros = lambda tree, *shape: optree.tree_map(lambda x: torch.zeros(shape), tree)
    if case.name == "escape_noise":
        return  # which fires at rest, too, and at the uniform number 0 for sure
    params, inputs = case.params(4), zeros(case.inputs(), 5, 3, 4)
    rest = case.neuron.init(params, at(inputs, 0))
    outputs, last = scan(case.neuron.step, params, rest, inputs)
    assert_equal(outputs, zeros(outputs, 5, 3, 4))
    if case.name not in REST_ELSEWHERE:
        assert_equal((rest, last), (zeros(rest, 3, 4), rest))


def test_leaky_integrator_is_leaky_without_reset_read_at_the_membrane():
    inputs, beta = torch.randn(6, 3, 4), torch.tensor([0.5, 0.9, -0.2, 1.3])
    rest, never = torch.zeros(3, 4), snf.LeakyParams(beta, reset_mechanism="none")
    mems, last = scan(
        snf.leaky_integrator_step, snf.LeakyIntegratorParams(beta), snf.LeakyIntegratorState(rest), inputs
    )
    state = snf.LeakyState(rest)
    for mem, x in zip(mems, inputs):
        state = snf.leaky_step(never, state, x)[1]
        assert_equal(mem, state.mem)
    assert_equal(last.mem, state.mem)


@each_case
def test_purity(case):
    """Nothing that came in is written to, and the same comes out twice."""
    world = case.world()
    leaves = optree.tree_leaves(world[1:])
    before = [leaf.clone() for leaf in leaves], [leaf._version for leaf in leaves]
    once, twice = scan(*world), scan(*world)
    case.neuron.init(world.params, at(world.inputs, 0))
    assert_equal(once, twice)
    assert_equal(leaves, before[0])
    assert [leaf._version for leaf in leaves] == before[1]


# ------------------------------------------------------------------------------------------------ derivatives


@each_neuron
def test_gradients_per_sample(case):
    """vmap(grad) over the samples is a loop over them."""
    step, params, state, inputs = case.world(dtype=torch.float64)
    sample = lambda b: World(step, params, at(state, b), at(inputs, slice(None), b))
    loss = mixture(sample(0))
    together = vmap(grad(loss, ALL), in_dims=(None, 0, 1))(params, state, inputs)
    assert_allclose(together, stacked([grad(loss, ALL)(*sample(b)[1:]) for b in range(3)]))


@each_case
def test_gradient_is_autograds(case):
    world = case.world(dtype=torch.float64)
    loss = mixture(world)
    assert_allclose(backward(loss, world[1:]), grad(loss, ALL)(*world[1:]))


@each_neuron
def test_jvp_is_the_directional_part_of_the_gradient(case):
    world = case.world(dtype=torch.float64)
    arguments = world[1:]
    direction = optree.tree_map(torch.randn_like, arguments)
    loss = mixture(world)
    _, slope = jvp(loss, arguments, direction)
    assert_allclose(slope, dot(grad(loss, ALL)(*arguments), direction))
    assert slope != 0


@each_neuron
def test_jacobians_forwards_and_backwards_agree(case):
    step, *arguments = case.world(T=3, batch=2, n=2, dtype=torch.float64)
    run = lambda *args: scan(step, *args)
    assert_allclose(jacfwd(run, ALL)(*arguments), jacrev(run, ALL)(*arguments))


@few_neurons
def test_hessians_in_every_order_agree(case):
    world = case.world(T=3, batch=1, n=2, dtype=torch.float64)
    point, back = flat(world[1:])
    loss = mixture(world)
    of = lambda vector: loss(*back(vector))
    hessian = jacrev(jacrev(of))(point)
    assert_allclose(hessian, hessian.mT)
    assert_allclose(jacfwd(jacrev(of))(point), hessian)
    assert_allclose(jacrev(jacfwd(of))(point), hessian)


@each_case
@settings(law, max_examples=max(1, EXAMPLES // 3))
@given(seed=seeds)
def test_derivatives_are_those_of_finite_differences(case, seed):
    """With a smooth function in the spike's place: there the surrogate's slope is the truth."""
    torch.manual_seed(seed)
    if case.name == "escape_noise":
        return  # whose slope is that of a mean: test_modifiers_firing.py
    step, *arguments = case.smooth(T=3, batch=1, n=2)
    leaves, spec = optree.tree_flatten(tuple(arguments))
    leaves = [leaf.requires_grad_() for leaf in leaves]
    run = lambda *leaves: tuple(optree.tree_leaves(scan(step, *optree.tree_unflatten(spec, leaves))))
    assert torch.autograd.gradcheck(run, leaves)


@few_neurons
def test_second_derivatives_are_those_of_finite_differences(case):
    step, *arguments = case.smooth(T=3, batch=1, n=2)
    leaves, spec = optree.tree_flatten(tuple(arguments))
    leaves = [leaf.requires_grad_() for leaf in leaves]
    run = lambda *leaves: tuple(optree.tree_leaves(scan(step, *optree.tree_unflatten(spec, leaves))))
    assert torch.autograd.gradgradcheck(run, leaves)


def has_one_kernel(case, world):
    """What is pointwise has one, and so may have what is so but for a product."""
    fused = snf.explain(*world).kind == "fused"
    assert fused or not case.pointwise
    return fused


@usual(CASES, all_of=("leaky", "lif"))
@pytest.mark.parametrize("kind", [pytest.param("checkpointed", marks=pytest.mark.slow), FUSED])
def test_every_kind_is_the_loop(case, kind):
    """Bit-equal values and the same derivatives, through random cotangents of the outputs and of the last state."""
    world = case.world(T=5, batch=2, n=2, dtype=torch.float64)
    arguments = world[1:]
    if kind == "fused" and not has_one_kernel(case, world):
        with pytest.raises(ValueError, match="has no kernel"):
            scan(*world, kind=kind)
        return
    mixed, backwards = mixture(world), mixture(world, reverse=True)
    direction = optree.tree_map(torch.randn_like, arguments)
    samples = stacked([arguments, case.world(T=5, batch=2, n=2, dtype=torch.float64)[1:]])

    def same(derivative, mixed=mixed):
        fast, slow = (derivative(lambda *args, kind=kind: mixed(*args, kind=kind)) for kind in (kind, "loop"))
        assert_allclose(fast, slow)

    same_values = (
        assert_allclose if case.name == "recurrent-delayed" else assert_equal
    )  # a sum of products, or one of them
    for reverse in (False, True):
        equal = case.same if kind == "fused" and case.rounded else same_values
        equal(scan(*world, kind=kind, reverse=reverse), scan(*world, kind="loop", reverse=reverse))
    same(lambda loss: grad(loss, ALL)(*arguments), backwards)
    same(lambda loss: grad(loss, ALL)(*arguments))
    if case not in ONE_EACH:
        return  # how it resets is no matter of the transforms below
    same(lambda loss: jvp(loss, arguments, direction))
    same(lambda loss: vmap(loss)(*samples))
    same(lambda loss: vmap(grad(loss, ALL))(*samples))
    same(lambda loss: vmap(loss, in_dims=-1)(*optree.tree_map(lambda x: x.movedim(0, -1), samples)))


@some_neurons
def test_a_pullback_outlives_its_transform(case):
    """What `vjp` hands out is called when the transform is over, and pulls back over more than one checkpoint."""
    world = case.world(T=40, batch=2, n=2, dtype=torch.float64)
    mixed = mixture(world)
    value, pull = vjp(lambda *args: mixed(*args, kind="auto"), *world[1:])
    assert_allclose(pull(torch.ones_like(value)), grad(lambda *args: mixed(*args, kind="loop"), ALL)(*world[1:]))


@few_neurons
@pytest.mark.parametrize("kind", ["checkpointed", FUSED])
def test_every_kind_is_the_loop_to_the_second_derivative(case, kind):
    world = case.world(T=5, batch=2, n=2, dtype=torch.float64)
    if kind == "fused" and not has_one_kernel(case, world):
        return  # refused, as the test above shows
    mixed = mixture(world)
    point, back = flat(world[1:])
    points = torch.stack([point, 0.9 * point])
    direction = torch.randn_like(point)

    def same(derivative):
        fast, slow = (derivative(lambda v, kind=kind: mixed(*back(v), kind=kind)) for kind in (kind, "loop"))
        assert_allclose(fast, slow)

    same(lambda loss: jacfwd(grad(loss))(point))
    same(lambda loss: jacrev(grad(loss))(point))
    same(lambda loss: grad(lambda v: jvp(loss, (v,), (direction,))[1])(point))
    same(lambda loss: vmap(vmap(grad(loss)))(points[None]))
    same(lambda loss: vmap(lambda v: jvp(grad(loss), (v,), (direction,))[1])(points))


# ------------------------------------------------------------------------------------------------ forms


@each_case
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_dtype_out_as_in(case, dtype):
    """But for half precision, which stays where the params are so, too: see test_mixed.py."""
    number = case.params(dtype=dtype if dtype == torch.bfloat16 else torch.float32)
    for params in (number, case.params(4, dtype=dtype))[not case.pointwise :]:
        inputs = optree.tree_map(lambda x: x.to(dtype), case.inputs())
        rest = case.neuron.init(params, at(inputs, 0))
        outputs, last = scan(case.neuron.step, params, rest, inputs)
        assert {x.dtype for x in optree.tree_leaves((rest, outputs, last))} == {dtype}


@each_neuron
def test_device_out_as_in(case):
    step, _, _, given = world = case.world()
    shapes = lambda tree: [x.shape for x in optree.tree_leaves(tree)]
    inputs = optree.tree_map(lambda x: torch.empty_like(x, device="meta"), given)
    for params in (case.params(), optree.tree_map(lambda x: x.to("meta"), case.params(4)))[not case.pointwise :]:
        rest = case.neuron.init(params, at(inputs, 0))
        outputs, last = scan(step, params, rest, inputs)
        assert {x.device.type for x in optree.tree_leaves((rest, outputs, last))} == {"meta"}
        assert shapes((outputs, last)) == shapes(scan(*world)) and shapes(rest) == shapes(last)


@some_neurons
def test_the_default_device_is_not_asked(case, monkeypatch):
    step, params, state, inputs = case.world(dtype=torch.float64)  # as above: for these there are kernels
    kind = "fused" if case.pointwise and not needs_kernels.args[0] else "auto"
    every = lambda *given: snf.scan(step, *given, kind=kind)

    def run():
        monkeypatch.setattr(snf._scan._known, "_known", snf._identity.Registry(100))
        results = every(params, case.neuron.init(params, at(inputs, 0)), inputs)
        total = lambda *given: sum(x.sum() for x in optree.tree_leaves(every(*given)))
        return results, grad(total, ALL)(params, state, inputs)

    expected = run()
    with torch.device("meta"):  # where a tensor that asks lands
        assert_equal(run(), expected)


@each_case
@pytest.mark.parametrize("dtype, floating", [(torch.bool, torch.float32), (torch.uint8, torch.float64)], ids=str)
def test_spikes_come_in_as_bool_or_uint8(case, dtype, floating):
    step, params, state, inputs = case.world(dtype=floating)
    (x, *noise), tree = optree.tree_flatten(inputs)
    spikes = lambda dtype: optree.tree_unflatten(tree, [(x > 0).to(dtype), *noise])
    assert_equal(scan(step, params, state, spikes(dtype)), scan(step, params, state, spikes(floating)))
    noise = [x.float() for x in noise]
    rest = case.neuron.init(case.params(), at(spikes(dtype), 0))
    assert {x.dtype for x in optree.tree_leaves(rest)} == {torch.float32}


@each_pointwise
@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 5, 4), ()], ids=str)
def test_any_number_of_axes(case, shape):
    """The last axes of a scan are those of its parts."""
    params, inputs = case.params(), optree.tree_map(lambda x: torch.randn(5, *shape), case.inputs())
    lined = lambda tree, *first: optree.tree_map(lambda x: x.view(*first, -1), tree)
    outputs, last = scan(case.neuron.step, params, case.neuron.init(params, at(inputs, 0)), inputs)
    lines = lined(inputs, 5)
    assert_equal(
        (lined(outputs, 5), lined(last)), scan(case.neuron.step, params, case.neuron.init(params, at(lines, 0)), lines)
    )


@each_case
@pytest.mark.filterwarnings("ignore:.torch.cpu.amp.autocast")  # torch 2.4's own
def test_torch_checkpoint_around_a_step(case):
    world = case.world(dtype=torch.float64)
    again = lambda *args: checkpoint(world.step, *args, use_reentrant=False)
    loss = mixture(world)
    saving = backward(lambda *args: loss(*args, step=again, kind="loop"), world[1:])
    assert_allclose(saving, backward(loss, world[1:]))


# ------------------------------------------------------------------------------------------------ trees


def same_tree(a, b):
    assert type(a) is type(b)
    assert_equal(a, b)
    for f in dataclasses.fields(a):
        if f.metadata.get("static"):
            assert getattr(a, f.name) == getattr(b, f.name)


@each_case
def test_trees(case):
    """Params and state survive all that is done to trees, choices included."""
    _, params, state, _ = case.world()
    for tree in (params, state):
        leaves, spec = optree.tree_flatten(tree)
        assert leaves and all(isinstance(leaf, torch.Tensor) for leaf in leaves)
        same_tree(optree.tree_unflatten(spec, leaves), tree)
        torch_leaves, torch_spec = torch_pytree.tree_flatten(tree)
        numbers = [
            leaf for leaf in torch_leaves if leaf is not None
        ]  # an absent bias is a leaf to torch, and none to optree
        assert all(a is b for a, b in zip(leaves, numbers, strict=True))
        same_tree(torch_pytree.tree_unflatten(torch_leaves, torch_spec), tree)
        same_tree(pickle.loads(pickle.dumps(tree)), tree)
        same_tree(copy.deepcopy(tree), tree)
        same_tree(dataclasses.replace(tree), tree)
        for name, leaf in vars(tree).items():
            if isinstance(leaf, torch.Tensor):
                new = dataclasses.replace(tree, **{name: leaf * 0.99})
                assert torch.equal(getattr(new, name), leaf * 0.99)
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(tree, name, leaf)


@each_case
def test_numbers_become_tensors_of_the_default_dtype(case):
    params = case.params()
    numbers = {name: float(x) for name, x in vars(params).items() if isinstance(x, torch.Tensor)}
    same_tree(dataclasses.replace(params, **numbers), params)


@each_case
@needs_torch("2.4", "torch.serialization.add_safe_globals")
def test_save_and_load_weights_only(case):
    _, params, state, _ = case.world()
    for tree in (params, state):
        file = io.BytesIO()
        torch.save(tree, file)
        file.seek(0)
        same_tree(torch.load(file, weights_only=True), tree)


# ------------------------------------------------------------------------------------------------ compilers


@sweep("case", ONE_EACH, of=("leaky", "slstm"))
@needs_torch("2.10", "torch.compile reads optree")
def test_compile(case):
    torch.compiler.reset()
    world = case.world(T=3)
    compiled = torch.compile(snf.scan, backend="aot_eager", fullgraph=True)
    assert_allclose(compiled(*world), scan(*world))


@sweep("case", ONE_EACH, of=("leaky",))
@needs_torch("2.10", "torch.compile reads optree")
def test_compile_gradients_per_sample(case):
    torch.compiler.reset()
    step, params, state, inputs = world = case.world(T=3)
    loss = mixture(World(step, params, at(state, 0), at(inputs, slice(None), 0)), kind="loop")
    per_sample = vmap(grad(loss, ALL), in_dims=(None, 0, 1))
    compiled = torch.compile(per_sample, backend="aot_eager", fullgraph=True)
    assert_allclose(compiled(*world[1:]), per_sample(*world[1:]))


@few_neurons
@needs_torch("2.7", "torch.export takes trees that are dataclasses of ours")
def test_export(case):
    step, params, state, inputs = case.world()

    class Layer(torch.nn.Module):
        def forward(self, params, state, input):
            return step(params, state, input)

    arguments = (params, state, at(inputs, 0))
    assert_allclose(torch.export.export(Layer(), arguments).module()(*arguments), step(*arguments))


# ------------------------------------------------------------------------------------------------ refusals

NOT_FITTING = torch.zeros(7)
ELSEWHERE = torch.zeros(3, 4, device="meta")
BAD = {
    "state that does not broadcast": (1, NOT_FITTING, ValueError, "does not broadcast"),
    "params that do not broadcast": (0, NOT_FITTING, ValueError, "does not broadcast"),
    "params on another device": (0, ELSEWHERE, ValueError, "is on meta|mixed devices"),
    "state on another device": (1, ELSEWHERE, ValueError, "is on meta|mixed devices"),
    "params of a larger dtype": (0, torch.ones(4).double(), TypeError, "would change its dtype"),
    "state of a smaller dtype": (1, torch.ones(3, 4).bfloat16(), TypeError, "cannot hold an input of torch.float32"),
}


@each_pointwise
@pytest.mark.parametrize("bad", BAD)
def test_refuses_params_and_states_that_do_not_fit(case, bad):
    which, leaf, error, message = BAD[bad]
    step, *arguments = case.world()
    leaves, spec = optree.tree_flatten(arguments[which])
    for worse in range(len(leaves)):
        given = list(arguments)
        given[which] = optree.tree_unflatten(spec, [leaf if i == worse else x for i, x in enumerate(leaves)])
        with pytest.raises(error, match=message):
            snf.scan(step, *given)
        with pytest.raises(error, match=message):
            step(given[0], given[1], at(given[2], 0))
        if which == 0:
            with pytest.raises(error, match=message):
                case.neuron.init(given[0], at(given[2], 0))


@each_case
@pytest.mark.parametrize("run", ["init", "step", "scan"])
def test_refuses_inputs_that_are_none(case, run):
    step, params, state, inputs = case.world()
    first = lambda x: x[0] if isinstance(x, list) else at(x, 0)
    start = {
        "init": lambda x: case.neuron.init(params, first(x)),
        "step": lambda x: step(params, state, first(x)),
        "scan": lambda x: snf.scan(step, params, state, x),
    }[run]
    with pytest.raises(TypeError, match="int64; expected a floating tensor"):
        start(optree.tree_map(torch.Tensor.long, inputs))
    with pytest.raises(TypeError, match="not|every leaf is a tensor"):
        start([0.0])


@each_case
def test_refuses_an_empty_time_axis(case):
    step, params, state, inputs = case.world()
    with pytest.raises(ValueError, match="time axis is empty"):
        snf.scan(step, params, state, at(inputs, slice(0)))


@each_case
def test_refuses_params_that_cannot_be(case):
    params = case.params(4)
    for f in dataclasses.fields(params):
        if f.metadata.get("choices"):
            with pytest.raises(ValueError, match=f"{f.name}='substract'.: unknown choice"):
                dataclasses.replace(params, **{f.name: "substract"})
        elif not f.metadata.get("static") and f.name != "inner":
            for bad in (float("nan"), torch.tensor([0.5, float("nan")])):
                with pytest.raises(ValueError, match=f"{f.name}=....? holds NaN"):
                    dataclasses.replace(params, **{f.name: bad})
            with pytest.raises(TypeError, match="int64"):
                dataclasses.replace(params, **{f.name: torch.tensor(1)})
            with pytest.raises(TypeError, match=f.name):
                dataclasses.replace(params, **{f.name: "0.9"})
