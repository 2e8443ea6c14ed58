"""`snf.nir.write`: what is read again is what was written, bit for bit, or nothing is written."""

import functools

import pytest
import torch
from helpers import assert_equal, law
from hypothesis import given, strategies as st

import snn_functional as snf


np = pytest.importorskip("numpy")
nir = pytest.importorskip("nir", reason="pip install nir")


def numbers(n, low=0.0, high=1.0, seed=0):
    return low + (high - low) * torch.rand(n, generator=torch.Generator().manual_seed(seed))


def neuron_of(kind, n, seed=0, **choices):
    """A neuron whose dynamics are NIR's, with numbers for each of n."""
    draw = lambda low, high, i: numbers(n, low, high, seed * 10 + i)
    if kind == "leaky":
        return snf.leaky, snf.LeakyParams(draw(0, 1, 0), draw(0.1, 0.5, 1), reset_mechanism="zero")
    if kind == "immediate":
        at_once = snf.immediate_reset(snf.synaptic)
        return at_once, snf.SynapticParams(draw(0, 1, 0), draw(0, 1, 1), draw(0.1, 0.5, 2), reset_mechanism="zero")
    if kind == "integrator":
        return snf.leaky_integrator, snf.LeakyIntegratorParams(draw(0, 1, 0))
    given = {
        "gain": draw(0.5, 4, 1),
        "leak": draw(-0.1, 0.1, 2),
        "threshold": draw(0.1, 0.5, 3),
        "reset": draw(-0.3, 0, 4),
    }
    given |= {"reset_mechanism": "value"} | choices
    if kind == "if":
        return snf.lif, snf.LifParams(1.0, **given | {"leak": 0.0})
    if kind in ("lif", "li"):
        params = snf.LifParams(draw(0.05, 0.95, 0), **given)
        return (snf.lif if kind == "lif" else snf.readout(snf.lif)), params
    params = snf.CubaLifParams(draw(0.05, 0.95, 0), draw(0.05, 0.95, 5), draw(0.5, 4, 6), **given)
    return (snf.cuba_lif if kind == "cuba" else snf.readout(snf.cuba_lif)), params


def scan(neuron, params, xs, kind="loop"):
    return snf.scan(neuron.step, params, neuron.init(params, xs[0]), xs, kind=kind)[0]


def there_and_back(neuron, params, xs, path, checked=True, **how):
    """The network that is read again, once its outputs have been compared, and it has been written and read a second time."""
    graph = snf.nir.write(neuron, params, path, **how)
    again, found = snf.nir.read(path)
    assert_equal(scan(again, found, xs), scan(neuron, params, xs))
    nir.read(path, type_check=checked)  # which NIR's own library reads
    for source in (graph, path):
        if source is path:
            snf.nir.write(again, found, path)
        other, same = snf.nir.read(source)
        assert other.step.nodes == again.step.nodes and other.step.platform == again.step.platform
        assert_equal(snf.named_leaves(same), snf.named_leaves(found))
    return again, found


def row(*layers):
    return snf.chain(*(neuron for neuron, _ in layers)), tuple(params for _, params in layers)


def line(inputs, outputs, seed=0, **how):
    return snf.linear, snf.Linear.random(inputs, outputs, generator=torch.Generator().manual_seed(seed), **how)


@law
@given(
    st.lists(st.sampled_from(["if", "lif", "li", "cuba", "cuba_li"]), min_size=1, max_size=3),
    st.sampled_from(["relax", "decay"]), st.booleans(), st.integers(0, 99),
)  # fmt: skip
def test_numbers_and_spikes_are_the_same_there_and_back(tmp_path_factory, kinds, update, late, seed):
    layers = []
    for i, kind in enumerate(kinds):
        own = {} if kind == "if" else {"update": update}
        layers += [line(5, 5, seed + i), neuron_of(kind, 5, seed + i, **own, spike_delay=late and update == "decay")]
    net, params = row(*layers)
    xs = numbers((12, 2, 5), 0, 4, seed)
    path = tmp_path_factory.mktemp("nir") / "net.nir"
    again, found = there_and_back(net, params, xs, path)
    for i, (before, kind) in enumerate(zip(params[1::2], kinds)):
        after = found[f"{2 * i + 1}"]
        without = {"if": {"leak"}, "li": {"threshold", "reset"}, "cuba_li": {"threshold", "reset"}}.get(kind, set())
        for name in {"beta", "gain", "leak", "threshold", "reset"} - without:
            assert_equal(getattr(after, name), getattr(before, name).expand(5))


@pytest.mark.parametrize("kind", ["leaky", "immediate", "integrator"])
def test_snntorchs_neurons(kind, tmp_path):
    net, params = row(line(5, 5), neuron_of(kind, 5), line(5, 4, bias=False), neuron_of(kind, 4, 1))
    xs = numbers((20, 3, 5), 0, 3)
    again, found = there_and_back(net, params, xs, tmp_path / "net.nir")
    assert again.step.platform is snf.nir.platforms["snntorch"] or again.step.platform == snf.nir.platforms["snntorch"]
    assert_equal(found["1"].beta, params[1].beta)
    assert 0 < scan(net, params, xs).abs().mean()
    assert [type(node).__name__ for node in nir.read(tmp_path / "net.nir").nodes.values()].count("Linear") == 1


def test_an_image_network_with_a_way_around(tmp_path):
    one = {"update": "relax"}
    net, params = row(
        (snf.conv2d, snf.Conv2d.random(2, 4, (3, 5))), neuron_of("lif", (), **one), (snf.avg_pool2d(2), ()),
        (snf.conv2d, snf.Conv2d.random(4, 4, 3, stride=2, padding=1, groups=2, bias=False)), neuron_of("cuba", (), 1, **one),
        (snf.flatten, ()), (snf.residual(snf.linear, snf.lif), (line(16, 16)[1], neuron_of("lif", 16, 2, **one)[1])), line(16, 3),
    )  # fmt: skip
    xs = numbers((8, 2, 2, 8, 8), 0, 3)
    again, found = there_and_back(
        net, params, xs, tmp_path / "net.nir", checked=False, shape=(2, 8, 8)
    )  # its shapes are of square kernels
    assert found["1"].beta.shape == (4, 8, 8) and again.step.recurrent == ()
    with pytest.raises(ValueError, match=r"nothing says the shape of the input. Give it.*shape=\(2, 34, 34\)"):
        snf.nir.write(net, params)


@pytest.mark.parametrize(
    "V", [snf.Linear.random(4, 4), snf.Linear.random(4, 4, bias=False), torch.rand(4), torch.tensor(0.5)]
)
def test_feedback(V, tmp_path):
    inner, own = neuron_of("lif", 4, update="relax")
    net, params = row(
        line(3, 4),
        (snf.recurrent(inner), snf.RecurrentParams(own, V)),
        line(4, 2),
        neuron_of("li", 2, 1, update="relax"),
    )
    xs = numbers((15, 2, 3), 0, 4)
    again, _ = there_and_back(net, params, xs, tmp_path / "net.nir")
    assert again.step.recurrent == (("1.V", "1"),)
    assert again.step.silence is (isinstance(V, snf.Linear) and bool(V.bias.any()))


def test_feedback_around_layers(tmp_path):
    inner, own = row(
        line(4, 5), neuron_of("lif", 5, update="relax"), line(5, 4, 1), neuron_of("lif", 4, 1, update="relax")
    )
    net, params = snf.recurrent(inner), snf.RecurrentParams(own, snf.Linear.random(4, 4))
    again, _ = there_and_back(net, params, numbers((15, 2, 4), 0, 4), tmp_path / "net.nir")
    assert again.step.recurrent == (("0.V", "0.0"),)


def test_a_neuron_alone_and_layers_of_torchs(tmp_path):
    neuron, params = neuron_of("lif", 3, update="relax")
    there_and_back(neuron, params, numbers((9, 2, 3), 0, 3), tmp_path / "one.nir")
    layers = (functools.partial(snf.flatten, axes=2), torch.nn.Identity(), torch.nn.Flatten(1), torch.nn.Dropout(0.0))
    net, params = row(*((layer, ()) for layer in layers[:2]), line(6, 3), *((layer, ()) for layer in layers[2:]))
    there_and_back(net, params, numbers((4, 2, 2, 3)), tmp_path / "flat.nir", shape=(2, 3))


def test_delays_of_a_chain(tmp_path):
    each = snf.AxonalDelay(torch.tensor([0.0, 2.0, 5.0]), 5)
    net, params = row(line(3, 3), (snf.delay(4), ()), neuron_of("lif", 3, update="relax"), (snf.axonal_delay, each))
    xs = numbers((20, 2, 3), 0, 4)
    assert scan(net, params, xs).any()
    there_and_back(net, params, xs, tmp_path / "net.nir", dt=3e-4)
    with pytest.raises(ValueError, match="layer 0: a delay that is written is a whole number of steps, 0 to 5"):
        snf.nir.write(snf.axonal_delay, snf.AxonalDelay(torch.tensor([0.5, 2.0]), 5))


def test_dt_is_noted_and_scales_the_time_constants(tmp_path):
    neuron, params = neuron_of("lif", 3, update="relax")
    for dt in (1e-4, 1e-3):
        graph = snf.nir.write(neuron, params, tmp_path / "net.nir", dt=dt)
        np.testing.assert_allclose(graph.nodes["0"].tau, dt / params.beta.double(), rtol=1e-12)
        again, found = snf.nir.read(tmp_path / "net.nir")
        assert again.step.dt == dt and snf.nir.noted(tmp_path / "net.nir")["platform"] == "norse"
        assert_equal(found["0"].beta, params.beta)
    with pytest.raises(ValueError, match="read with dt=0.001: they are shares of such a step"):
        snf.nir.write(again, found, dt=1e-4)
    plain = tmp_path / "plain.nir"
    nir.write(plain, nir.NIRGraph(graph.nodes, graph.edges))  # as others write it
    assert snf.nir.read(plain, dt=1e-3)[0].step.platform == snf.nir.platforms["norse"] and snf.nir.noted(plain) == {}


def test_what_has_been_learned_is_written_and_the_rest_stays(tmp_path):
    """Time constants are more exact in the file than their shares of a step are here."""
    tau = np.array([1.1e-3, 2.3e-3, 3.7e-3])
    lif = nir.LIF(tau=tau, r=np.ones(3), v_leak=np.zeros(3), v_threshold=np.array([0.1, 0.2, 0.3]), v_reset=np.zeros(3))
    neuron, params = snf.nir.read(nir.NIRGraph.from_list(lif))
    same = snf.nir.write(neuron, params).nodes["lif"]
    assert np.array_equal(same.tau, tau) and np.array_equal(same.v_threshold, [0.1, 0.2, 0.3])
    params["lif"].threshold.add_(0.5)
    params["lif"].beta[1] = 0.5
    learned = snf.nir.write(neuron, params).nodes["lif"]
    assert np.array_equal(learned.v_threshold, params["lif"].threshold) and learned.tau[1] == 2e-4
    assert learned.tau[0] != 0 and np.array_equal(learned.r, np.ones(3))


def test_edges_that_were_named_are_noted(tmp_path):
    W = nir.Affine(np.eye(3), np.ones(3))
    lif = nir.LIF(*(np.full(3, x) for x in (1e-3, 1.0, 0.0, 0.5)))
    nodes = {"input": nir.Input(np.array([3])), "lif": lif, "w": W, "output": nir.Output(np.array([3]))}
    graph = nir.NIRGraph(nodes, [("input", "lif"), ("lif", "w"), ("w", "lif"), ("lif", "output")])
    neuron, params = snf.nir.read(
        graph,
        recurrent=[("lif", "w")],
        before="silence",
        platform={"decay": "exact", "share": "exact", "inclusive": True},
    )
    snf.nir.write(neuron, params, tmp_path / "net.nir")
    again, _ = snf.nir.read(tmp_path / "net.nir")
    assert again.step.nodes == neuron.step.nodes and again.step.recurrent == (("lif", "w"),)
    assert again.step.silence and again.step.platform == neuron.step.platform


def test_every_kind_of_node_is_written_again(tmp_path):
    one, draw = np.ones(5), np.random.default_rng(0).random
    pair = lambda *sizes: tuple(np.array(x) for x in sizes)
    nodes = {
        "in": nir.Input(np.array([2, 8, 9])),
        "conv": nir.Conv2d((8, 9), draw((4, 1, 3, 5)), (2, 1), (1, 2), 1, 2, np.ones(4)),
        "same": nir.Conv2d(None, draw((4, 4, 3, 3)), 1, "same", (1, 2), 1, np.ones(4)),
        "sum": nir.SumPool2d(*pair([2, 2], [2, 2], [0, 1])),
        "mean": nir.AvgPool2d(*pair([1, 2], [1, 2], [0, 0])),
        "flat": nir.Flatten({"input": None}, 1, -1),
        "conv1": nir.Conv1d(6, draw((3, 4, 2)), 2, 0, 1, 1, np.ones(3)),
        "all": nir.Flatten({"input": None}, 0, -1),
        "line": nir.Linear(draw((5, 6))),
        "scale": nir.Scale(draw(5)),
        "delay": nir.Delay(np.array([0, 1, 2, 1, 0]) * 1e-4),
        "i": nir.I(one),
        "if": nir.IF(one, one),
        "li": nir.LI(one * 1e-3, one, one),
        "cuba": nir.CubaLI(*(one * 1e-3,) * 5),
        "lif": nir.CubaLIF(*(one * 1e-3,) * 5),
        "threshold": nir.Threshold(draw(5)),
        "out": nir.Output(np.array([5])),
    }
    graph = nir.NIRGraph(nodes, list(zip(nodes, list(nodes)[1:])), type_check=False)
    neuron, params = snf.nir.read(graph)
    again = snf.nir.write(neuron, params)
    assert sorted(again.edges) == sorted(graph.edges)
    for name, theirs in nodes.items():
        ours = again.nodes[name]
        assert type(ours) is type(theirs)
        for key, x in vars(theirs).items():
            if key not in ("input_type", "output_type", "input_shape", "metadata"):
                assert np.array_equal(getattr(ours, key), x), (name, key)
    assert_equal(snf.nir.read(again)[1]["lif"].alpha, params["lif"].alpha)


# Refused ---------------------------------------------------------------------------------------------------------------------------

SUBTRACTS = snf.LifParams(0.9, update="decay")


@pytest.mark.parametrize("neuron, params, says", [
    (snf.leaky, snf.LeakyParams(0.9), 'layer 0: reset_mechanism \'subtract\' is not NIR\'s.*Train it with reset_mechanism="zero"'),
    (snf.lif, SUBTRACTS, r"node '0' is reset by subtraction.*platform=nir.Platform\(update='decay', reset_mechanism='subtract'\)|Platform"),
    (snf.lif, snf.LifParams(0.9, inclusive=True), "is reset by subtraction.*platform="),
    (snf.lif, snf.LifParams(0.9, reset_mechanism="none"), "or read it out, readout"),
    (snf.synaptic, snf.SynapticParams(0.9, 0.9, reset_mechanism="zero"), 'its "zero" comes with the next step'),
    (snf.lif, snf.LifParams(0.9, reset_mechanism="value", inclusive=True), "goes through its steps as no platform does: inclusive is True"),
    (snf.lif, snf.LifParams(1.5, reset_mechanism="value"), "beta says that a share of -0.5 to -0.5 is lost in a step"),
    (snf.lif, snf.LifParams(0.0, reset_mechanism="value", update="relax"), "beta says that a share of 0 to 0 is lost in a step"),
    (snf.refractory(snf.lif, 3), snf.LifParams(0.9), r"NIR has no words for refractory\(lif_step, 3\)"),
    (snf.izhikevich, snf.IzhikevichParams(), "NIR has no words for izhikevich_step. It has those for linear"),
    (snf.chain(snf.max_pool2d(2)), ((),), "layer 0: NIR has no words for max_pool2d"),
    (snf.chain(torch.relu), ((),), "layer 0: NIR has no words for relu"),
    (snf.recurrent(snf.lif, snf.delay(2)), snf.RecurrentParams(SUBTRACTS, ()), "feeds back through a layer with a memory"),
])  # fmt: skip
def test_what_nir_cannot_say_is_refused(neuron, params, says):
    with pytest.raises(ValueError, match=says):
        snf.nir.write(neuron, params, shape=(3,))


def test_a_reset_by_subtraction_for_a_reader_that_subtracts(tmp_path):
    params = snf.LifParams(0.9, 2.0, threshold=0.5, inclusive=True)
    with pytest.raises(ValueError, match="write it with platform='rockpool'"):
        snf.nir.write(snf.lif, params, shape=(3,))
    snf.nir.write(snf.lif, params, tmp_path / "net.nir", shape=(3,), platform="rockpool")
    neuron, found = snf.nir.read(tmp_path / "net.nir")
    xs = numbers((20, 2, 3))
    assert_equal(scan(neuron, found, xs), scan(snf.lif, params, xs))
    with pytest.raises(ValueError, match="is reset by subtraction"):
        snf.nir.write(neuron, found)
    snf.nir.write(neuron, found, platform="rockpool")
    with pytest.raises(ValueError, match=r"write\(platform='norse'\): node '0'.*update is 'decay', there 'relax'"):
        snf.nir.write(snf.lif, snf.LifParams(0.9, reset_mechanism="value"), shape=(3,), platform="norse")


def test_trees_that_do_not_belong(tmp_path):
    net, params = row(line(3, 3), neuron_of("lif", 3))
    with pytest.raises(TypeError, match="has a tuple of 2 params, but a dict came"):
        snf.nir.write(net, {"0": params[0]})
    with pytest.raises(ValueError, match=r"its numbers are of \(4,\), but it gets \(3,\)"):
        snf.nir.write(net, (params[0], neuron_of("lif", 4)[1]))
