"""What a new user tripped over: each call is refused, or answered, with the one that works; and that one does."""

import subprocess
import sys

import commands
import optree
import pytest
import recorded
import torch

import snn_functional as snf
from snn_functional import losses, metrics, snn, train


# ------------------------------------------------------------------------------------------------ sequences of different lengths


SPKS = (torch.rand(6, 3, 4, generator=torch.Generator().manual_seed(0)) < 0.4).float()
WRONG = {
    "beyond the end": (torch.tensor([2, 7, 1]), ValueError, "a length is 7, but there are 6 steps"),
    "below 0": (torch.tensor([2, -1, 1]), ValueError, "a length is -1; expected"),
    "shares": (torch.tensor([2.0, 3.0, 1.0]), TypeError, "whole numbers .*torch.float32 came. Give lengths.long()"),
    "a mask": (torch.ones(3, dtype=torch.bool), TypeError, "torch.bool came. It is a mask already"),
    "a list": ([2, 3, 1], TypeError, r"list came. Give torch.tensor\(lengths\)"),
    "another batch": (torch.tensor([2, 3]), ValueError, r"lengths is \(2,\); expected \(3,\), one a sample"),
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("takes", ["scores", "firing_rates", "valid_steps"])
def test_lengths_are_refused_alike(takes, what):
    lengths, error, says = WRONG[what]
    calls = {
        "scores": lambda: train.scores(SPKS, lengths),
        "firing_rates": lambda: snf.firing_rates(SPKS, lengths),
        "valid_steps": lambda: snf.valid_steps(lengths, 6),
    }
    if (takes, what) == ("valid_steps", "another batch"):  # which knows of none
        calls[takes]()
        return
    with pytest.raises(error, match=rf"^{takes}\(.*{says}"):
        calls[takes]()


def test_a_mean_over_no_step_is_refused_and_padding_counts_for_nothing():
    with pytest.raises(ValueError, match=r"scores\(mems, lengths\): a length is 0; expected 1 to 6 steps"):
        train.scores(SPKS, torch.tensor([2, 0, 1]))
    lengths = torch.tensor([2, 6, 1])
    spoilt = SPKS.clone()
    spoilt[2:, 0], spoilt[1:, 2] = float("nan"), float("inf")
    found = train.scores(spoilt, lengths)
    assert all(torch.equal(found[i], SPKS[:n, i].sum(0) / n) for i, n in enumerate(lengths.tolist()))


def test_the_docstring_of_batch_names_what_takes_lengths():
    doc = snf.recordings.batch.__doc__
    assert "snf.train.scores(spks, lengths)" in doc and "`masked` and the losses take" not in doc
    net = snf.chain(snf.linear, snf.leaky)
    params = snf.Linear(3 * torch.eye(4)), snf.LeakyParams(0.9)
    alone = [(SPKS[:n, i], i) for i, n in enumerate((2, 6, 3))]
    xs, y, lengths = snf.recordings.batch(alone)
    run = lambda net, xs, first: snf.scan(net.step, params, net.init(params, first), xs)[0]
    each = [run(net, x[:, None], x[:1])[:, 0] for x, _ in alone]
    masked, valid = snf.masked(net), snf.valid_steps(lengths, len(xs))
    assert torch.equal(train.scores(run(net, xs, xs[0]), lengths), torch.stack([x.mean(0) for x in each]))
    of_masked = run(masked, (xs, valid), (xs[0], valid[0]))
    counts = torch.stack([x.sum(0) for x in each])
    assert torch.equal(losses.ce_count_loss(of_masked, y), losses.ce_count_loss(counts[None], y)) and counts.any()


# ------------------------------------------------------------------------------------------------ a batch in front of time


OF_CLASSES = {
    **{name: getattr(losses, name) for name in losses.__all__ if name.startswith(("ce_", "mse_")) or name == "spike_time"},
    **{name: getattr(metrics, name) for name in metrics.__all__ if name.startswith("accuracy")},
}  # fmt: skip


@pytest.mark.parametrize("name", OF_CLASSES)
def test_outputs_with_the_batch_in_front_are_to_be_turned(name):
    function, y = OF_CLASSES[name], torch.tensor([0, 1, 2])
    with pytest.raises(ValueError, match=rf"^{name}: targets \(3,\).*batch first: give outputs.transpose\(0, 1\)\.$"):
        function(SPKS.transpose(0, 1), y)
    with pytest.raises(ValueError, match=rf"^{name}: targets \(5,\)(?!.*transpose)"):
        function(SPKS.transpose(0, 1), torch.zeros(5, dtype=torch.int64))
    function(SPKS, y)


# ------------------------------------------------------------------------------------------------ a state that is carried on


XS = torch.rand(6, 3, 7, generator=torch.Generator().manual_seed(1))
NET = snf.chain(snf.linear, snf.leaky)
PARAMS = snf.Linear.random(7, 5, generator=torch.Generator().manual_seed(2)), snf.LeakyParams(0.9)


def by_run():
    net = torch.nn.Sequential(torch.nn.Linear(7, 5), snn.Leaky(0.9, init_hidden=True))
    return lambda: snn.run(net, XS), lambda: net[1].detach_hidden()


def by_module():
    model, kept = snf.module(NET, PARAMS), [None]

    def run():
        spks, kept[0] = model(XS, kept[0], return_state=True)
        return spks

    return run, lambda: kept.append(optree.tree_map(torch.Tensor.detach, kept.pop()))


def by_scan(kind):
    def make():
        weight = PARAMS[0].weight.clone().requires_grad_()
        params = snf.Linear(weight), PARAMS[1]
        kept = [NET.init(params, XS[0])]

        def run():
            spks, kept[0] = snf.scan(NET.step, params, kept[0], XS, kind=kind)
            return spks

        return run, lambda: kept.append(optree.tree_map(torch.Tensor.detach, kept.pop()))

    return make


@pytest.mark.parametrize(
    "make",
    [by_run, by_module, by_scan("auto"), by_scan("checkpointed")],
    ids=["snn.run", "module", "scan", "checkpointed"],
)
def test_a_backward_through_a_carried_state_is_told_how_to_cut_it_off(make):
    run, cut = make()
    run().sum().backward()
    with pytest.raises(RuntimeError, match="a second time") as told:
        run().sum().backward()
    if not torch.__version__.startswith("2.0."):  # which may refuse it before a Function of this library is asked
        assert str(told.value).count("Was a state carried on") == 1
        assert "snn.utils.reset(net)" in str(told.value) and "tree_map(torch.Tensor.detach, state)" in str(told.value)
    cut()
    run().sum().backward()
    cut()
    run().sum().backward(retain_graph=True)
    run().sum().backward()  # which goes through both on purpose


# ------------------------------------------------------------------------------------------------ a window in another unit


EVENTS = {"x": torch.arange(50) % 4, "y": torch.arange(50) % 3, "p": torch.arange(50) % 2, "t": torch.arange(50) * 6000}
SECONDS = {**EVENTS, "t": EVENTS["t"] / 1e6}
IN_FRAMES = lambda events, window: snf.recordings.frames(events, window=window, size=(4, 3, 2))
IN_CHANNELS = lambda events, dt: snf.recordings.channels(events["t"], events["x"], dt, 4)


@pytest.mark.parametrize("events, window, right", [(EVENTS, 1e7, "10_000"), (SECONDS, 10_000, "0.01")])
@pytest.mark.parametrize("take, name, one", [(IN_FRAMES, "window", "bins=1"), (IN_CHANNELS, "dt", "steps=1")])
def test_a_window_longer_than_the_recording_is_said(take, name, one, events, window, right):
    with pytest.warns(
        snf.recordings.OneFrame, match=rf"{name}=.* longer than a whole recording.*{name}={right}.*{one}"
    ):
        assert len(take(events, window)) == 1
    span = events["t"][-1].item()
    assert (
        len(take(events, span)) == 2 and len(take(events, float(right.replace("_", "")))) == 30
    )  # which warn of nothing
    one_moment = {key: x[:1] for key, x in events.items()}
    assert len(take(one_moment, window)) == 1


def test_a_window_far_too_short_says_the_unit_too():
    with pytest.raises(
        ValueError, match=r"window is in the unit of the times, .* 294_000 long; .* 10 ms are window=10_000"
    ):
        IN_FRAMES(EVENTS, 0.01)
    with pytest.raises(ValueError, match=r"dt is in the unit of the times, .* 294_000 long; .* 10 ms are dt=10_000"):
        IN_CHANNELS(EVENTS, 0.01)


def test_training_on_one_step_of_recordings_is_refused(tmp_path):
    recorded.nmnist(tmp_path / "nmnist")
    with pytest.raises(
        ValueError, match="^30 of 30 recordings become one time step; --window is in milliseconds, 10 by"
    ):
        snf.data.load("nmnist", tmp_path, window=10_000.0)
    some = snf.data.load("nmnist", tmp_path, window=52.0)  # the shorter ones are one step, of which nothing is said
    assert 1 in some.train.lengths and 2 in some.train.lengths


# ------------------------------------------------------------------------------------------------ into NIR


ZERO = PARAMS[0], snf.LeakyParams(0.9, reset_mechanism="zero")
FACES = torch.nn.Sequential(torch.nn.Linear(7, 5), snn.Leaky(0.9, init_hidden=True))


@pytest.mark.parametrize("params", [PARAMS, ZERO], ids=["subtract", "zero"])
def test_a_platform_that_is_none_is_refused_before_all_else(params):
    net = torch.nn.Sequential(torch.nn.Linear(7, 5), snn.Leaky(0.9, reset_mechanism=params[1].reset_mechanism))
    for call in (
        lambda: snf.nir.write(NET, params, platform="foo"),
        lambda: snn.export_nir.export_to_nir(net, XS[0], platform="foo"),
    ):
        with pytest.raises(ValueError, match="platform='foo' is not known. It is one of norse, snntorch, .*lava"):
            call()


@pytest.mark.parametrize("platform", [None, "norse", "sinabs"])
def test_a_reset_by_subtraction_names_the_readers_that_subtract(platform):
    with pytest.raises(
        ValueError, match=r'reset_mechanism="zero"\. No reader .*\(spinnaker2, rockpool, sinabs, spyx\) train lif'
    ):
        snf.nir.write(NET, PARAMS, platform=platform)


def test_what_is_written_to_nir_is_a_network_with_its_params():
    with pytest.raises(TypeError, match=r"^nir.write\(neuron, params\): the params are missing"):
        snf.nir.write(NET)
    with pytest.raises(
        TypeError, match=r"the module Sequential came.*export_to_nir\(net, x\).*snf.functionalize\(net\)"
    ):
        snf.nir.write(FACES)
    model = snf.module(NET, ZERO)
    with pytest.raises(TypeError, match=r'a module has its params.*nir.write\(model, path="network.nir"\)'):
        snf.nir.write(model, "network.nir")


def test_a_module_is_written_as_what_it_is_made_of(tmp_path):
    pytest.importorskip("nir", reason="pip install nir")
    model = snf.module(NET, ZERO)
    snf.nir.write(model, path=tmp_path / "net.nir")
    neuron, params = snf.nir.read(tmp_path / "net.nir")
    assert torch.equal(snf.scan(neuron.step, params, neuron.init(params, XS[0]), XS)[0], model(XS))


# ------------------------------------------------------------------------------------------------ arguments that are missing, or swapped


STATE = NET.init(PARAMS, XS[0])
LEAKY, REST, X = snf.LeakyParams(0.9), snf.LeakyState(torch.zeros(3, 5)), torch.rand(6, 3, 5)
OTHER = (), snf.LeakyState(torch.zeros(2, 5))
MODEL = snf.module(NET, PARAMS)
NETWORK = train.network_init(torch.Generator().manual_seed(0), (7, 5, 4), "leaky")
RECURRENT, BACK = snf.recurrent(snf.leaky), snf.RecurrentParams(LEAKY, 0.1)
REFRACTORY = snf.refractory(snf.leaky, 3)
LSTM = snf.SLSTMParams(snf.Linear.random(5, 16), snf.Linear.random(4, 16))
MASK = torch.ones(3, dtype=torch.bool)

REFUSED = {
    # without a state
    "explain": (lambda: snf.explain(NET.step, PARAMS, XS), r"^explain\(.*state is net.init\(params, xs\[0\]\)"),
    "diagnose": (lambda: snf.diagnose(NET.step, PARAMS, XS), r"^diagnose\(.*state is net.init\(params, xs\[0\]\)"),
    "diagnose, a bundle": (lambda: snf.diagnose(NET, PARAMS, XS), r"^diagnose\(.*net.step, params, net.init\(params, xs\[0\]\)"),
    "init": (lambda: NET.init(PARAMS), r"without an input: .* net.init\(params, xs\[0\]\)"),
    "None": (lambda: snf.scan(NET.step, PARAMS, None, XS), r"state is a tuple .* None came. At rest it is net.init\(params, xs\[0\]\)"),
    "()": (lambda: snf.scan(NET.step, PARAMS, (), XS), r"but 0 came. At rest it is net.init\(params, xs\[0\]\)"),
    "a part": (lambda: NET.step(PARAMS, ((), None), XS[0]), r"state\[1\] .* None came. At rest it is net.init\(params, xs\[0\]\)"),
    "another batch": (lambda: NET.step(PARAMS, OTHER, XS[0]), r"leaky_init\(params, input\), in a chain by net.init\(params, xs\[0\]\)"),
    "another dtype": (lambda: NET.step(PARAMS, ((), snf.LeakyState(REST.mem.half())), XS[0]), r"in a chain by net.init\(params, xs\[0\]\)"),
    # swapped
    "step": (lambda: snf.leaky_step(REST, LEAKY, X[0]), "params and state are swapped: .* a LeakyState came first"),
    "step of an LSTM": (lambda: snf.slstm_step(snf.slstm_init(LSTM, X[0]), LSTM, X[0]), "params and state are swapped"),
    "step of recurrent": (lambda: RECURRENT.step(RECURRENT.init(BACK, X[0]), BACK, X[0]), "params and state are swapped"),
    "step of refractory": (lambda: REFRACTORY.step(REFRACTORY.init(LEAKY, X[0]), LEAKY, X[0]), "params and state are swapped"),
    "step of linear": (lambda: snf.linear.step((), PARAMS[0], XS[0]), r"a tuple came. It is step\(params, state, input\)"),
    "step of a chain": (lambda: NET.step(STATE, PARAMS, XS[0]), r"params and state are swapped: step\(params, state, input\)"),
    "scan, swapped": (lambda: snf.scan(snf.leaky_step, REST, LEAKY, X), "params and state came in each other's place"),
    "scan of a chain, swapped": (lambda: snf.scan(NET.step, STATE, PARAMS, XS), "params and state are swapped"),
    "state and inputs": (lambda: snf.scan(snf.leaky_step, LEAKY, X, REST), "state and inputs came in each other's place"),
    "state and inputs of a chain": (lambda: snf.scan(NET.step, PARAMS, XS, STATE), "state and input are swapped"),
    # what is called, or made, otherwise
    "a bundle called": (lambda: snf.leaky(X), r"params are LeakyParams\(beta, .*scan\(leaky.step, params, leaky.init"),
    "a chain called": (lambda: NET(XS), r"^chain\(linear, leaky\).*a tuple, one for each layer.* net.step\(params, state, x\)"),
    "a bundle scanned": (lambda: snf.scan(snf.leaky, LEAKY, REST, X), r"came as Neuron. Give its step: scan\(neuron.step"),
    "a bundle explained": (lambda: snf.explain(snf.leaky, LEAKY, REST, X), r"came as Neuron. Give its step: scan\(neuron.step"),
    "Linear of sizes": (lambda: snf.Linear(256, 64), r"tensor \(out, in\), but a number came.*Linear.random\(inputs, outputs\)"),
    "Conv2d of sizes": (lambda: snf.Conv2d(2, 8, 3), r"but a number came.* Conv2d.random\(inputs, outputs, kernel_size\)"),
    "DelayedLinear of sizes": (lambda: snf.DelayedLinear(256, 64, longest=3), r"DelayedLinear.random\(inputs, outputs\)"),
    "a bundle for params": (lambda: snf.RecurrentParams(snf.leaky, 0.1), r"inner is a tree of params, LeakyParams\(...\), but the bundle"),
    "a chain for params": (lambda: snf.RecurrentParams(NET, 0.1), r"as its layers have it, but the bundle came"),
    "a matrix for V": (lambda: RECURRENT.init(snf.RecurrentParams(LEAKY, torch.rand(5, 5)), X[0]), r"V is a connection: V=Linear\(V\)"),
    "a matrix for rleaky": (lambda: rleaky(torch.rand(5, 5), X[0]), r"V is a connection: V=Linear\(V\)"),
    "a mask": (lambda: MODEL((XS, MASK.expand(6, 3))), r"a pair \(x, valid\) is what masked\(net\) takes"),
    "a mask for a neuron": (lambda: snf.leaky_step(LEAKY, REST, (X[0], MASK)), r"a pair \(x, valid\) is what masked\(net\) takes"),
    "faces explained": (lambda: snf.explain(FACES, XS), r"explain\(.*the module Sequential came.* snn.explain\(net, xs\)"),
    "faces diagnosed": (lambda: snf.diagnose(FACES, XS), r"diagnose\(.*the module Sequential came.* functionalize\(net\)"),
}  # fmt: skip


def rleaky(V, x):
    params = snf.RLeakyParams(0.9, V=V)
    return snf.rleaky_step(params, snf.rleaky_init(params, x), x)


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_missing_swapped_or_called_otherwise(what):
    call, says = REFUSED[what]
    with pytest.raises((TypeError, ValueError), match=f"(?i){says}"):
        call()


def test_what_is_alike_goes_through():
    snf.recurrent(snf.leaky).init(snf.RecurrentParams(LEAKY, torch.rand(5)), X[0])
    RECURRENT.init(snf.RecurrentParams(LEAKY, snf.Linear(torch.rand(5, 5))), X[0])
    optree.tree_map(lambda leaf: torch.zeros(()), PARAMS)  # a transform puts anything where weights were
    assert torch.func.vmap(lambda w: snf.Linear(w)(XS[0]))(torch.rand(4, 5, 7)).shape == (4, 3, 5)
    assert not hasattr(snf, "foo") and not hasattr(snf, "_foo")


@pytest.mark.parametrize(
    "name, room", [("Leaky", "snn"), ("run", "snn"), ("ce_rate_loss", "losses"), ("batch", "recordings")]
)
def test_a_name_of_a_room_says_which(name, room):
    with pytest.raises(
        AttributeError, match=rf"no attribute '{name}'. It is {room}.{name}: from snn_functional import {room}"
    ):
        getattr(snf, name)
    assert hasattr(getattr(snf, room), name)


# ------------------------------------------------------------------------------------------------ a whole model


def test_a_module_is_explained_and_diagnosed_as_what_it_runs():
    assert snf.explain(MODEL, XS) == snf.explain(NET.step, MODEL.params, STATE, XS)
    assert snf.explain(MODEL, XS, STATE) == snf.explain(MODEL, XS)
    assert snf.diagnose(MODEL, XS) == snf.diagnose(NET.step, MODEL.params, STATE, XS)
    assert torch.equal(snf.scan(*MODEL.arguments(XS))[0], MODEL(XS))


@pytest.mark.parametrize("conv", [(), (2,)])
def test_a_trained_network_is_a_chain(conv):
    image, inputs = ((1, 4, 4), 16) if conv else (None, 7)
    network = train.network_init(torch.Generator().manual_seed(0), (inputs, 5, 4), "leaky", conv, image)
    xs = torch.rand(6, 3, inputs, generator=torch.Generator().manual_seed(1))
    net, params = network.chain()
    model = snf.module(net, params, learn=["weight", "bias"])
    mems, spks = train.network_apply(network, xs)
    assert torch.equal(model(xs), mems)
    train.scores(model(xs)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    rates = list(snf.diagnose(network, xs).rates.values())
    assert rates == [pytest.approx(float(spk.mean())) for spk in spks]
    assert snf.summary(network, xs=xs).rows[-2].output == {"": (3, 4)} and "rate" in snf.summary(network, xs[0])
    assert snf.explain(network, xs).kind == "staged"
    lines = repr(network).splitlines()
    assert len(lines) == 1 + len(params) and repr(network) == str(network)
    assert f"weight (5, {2 * 4 if conv else inputs})" in repr(network) and "beta (4,)" in lines[-1]


def test_what_goes_on_says_which_run_it_took(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib"), pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    for folder in ("digits", "digits-2"):
        commands.run("train", "--epochs", 1, "--hidden", 4, "--steps", 2, "--batch", 600, "--out", f"runs/{folder}")
    took = "; it is the run in runs/digits-2, the latest, and --out names another"
    assert took in commands.refused(capsys, "train", "--resume", "--hidden", 5)
    assert "it is the run in" not in commands.refused(
        capsys, "train", "--resume", "--hidden", 5, "--out", "runs/digits"
    )


def test_who_looks_for_a_part_that_is_not_loaded_yet_loads_nothing_else():
    code = "import sys, snn_functional as snf; hasattr(snf, 'kernels'); print('snn_functional.snn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
