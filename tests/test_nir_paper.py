"""The graphs and traces that the paper on NIR published, and real recordings: what `snf.nir` reads gives their spikes, bit for bit.

The files lie beside the repository, in ../shared, and are not part of it.
"""

import zipfile
from pathlib import Path

import pytest
import torch

import snn_functional as snf


np = pytest.importorskip("numpy")
pytest.importorskip("h5py", reason="NIR's files are HDF5: pip install nir")
SHARED = Path(__file__).parents[2] / "shared"
GRAPHS = SHARED / "nir"


def found(*paths):
    for path in paths:
        if not path.exists():
            pytest.skip(f"no ../shared/{path.relative_to(SHARED)}")
    return paths[0]


@pytest.fixture(scope="module")
def expected():
    return np.load(found(GRAPHS / "expected.npz"))


def run(neuron, params, xs):
    return snf.scan(neuron.step, params, neuron.init(params, xs[0]), xs)[0]


def membranes(neuron, params, xs, name):
    state, found = neuron.init(params, xs[0]), []
    for x in xs:
        _, state = neuron.step(params, state, x)
        found.append(state[name].mem)
    return torch.stack(found)


TRACES = {
    "norse": ("euler-value", 1e-7),
    "nengo": ("exact-value", None),  # whose voltage is scaled
    "rockpool": ("expdecay-eulergain-subtract", 1e-7),
    "spyx": ("euler-subtract-oldv", 1e-7),
}


@pytest.mark.fidelity(
    model="nir",
    reference="the traces of `paper/01_lif` in the NIR repository: Norse, Nengo, Rockpool, Spyx",
    compared="the spikes and the membrane of one LIF over 1000 steps, each platform's own map",
    closely="spikes equal, membranes to 1e-7 (float32 there); Nengo's voltage is scaled, and left out",
    differs="nothing",
)
@pytest.mark.parametrize("platform", TRACES)
def test_a_platform_has_its_published_trace(platform, expected):
    recipe, close = TRACES[platform]
    neuron, params = snf.nir.read(found(GRAPHS / "lif_norse.nir"), dt=1e-4, platform=platform)
    trace = np.loadtxt(found(GRAPHS / f"lif_{platform}.csv"), delimiter=",")
    xs = torch.from_numpy(expected["lif/input"]).float()[:, None]
    spks = run(neuron, params, xs)[:, 0]
    assert spks.sum() == 4 and np.array_equal(spks, expected[f"lif/{recipe}/spk"])
    assert np.array_equal(spks, trace[:, 2] > 0)
    precise = snf.nir.read(GRAPHS / "lif_norse.nir", dt=1e-4, platform=platform, dtype=torch.float64)
    mem = membranes(*precise, xs.double(), "1")[:, 0]
    assert np.abs(mem.numpy() - expected[f"lif/{recipe}/v"]).max() < 1e-7
    assert close is None or np.abs(mem.numpy() - trace[:, 1]).max() < close


PUBLISHED = {  # of `lif_<platform>.csv` in the same folder, which are not here: when it fires, and its membrane in some steps
    "snntorch": (
        [460, 510, 710, 760],
        {60: 0.03999999910593033, 460: 0.1063796877861023, 462: 0.0, 470: 0.03999999910593033},
    ),
    "spinnaker2": (
        [460, 510, 710, 760],
        {60: 0.03920799843, 460: 0.00559675474, 510: 0.00358990344, 760: 0.0032225761},
    ),
    "sinabs": ([450, 500, 710, 760], {60: 0.03999999910593033, 450: 0.001040823757648468, 760: 0.005582742393016815}),
    "lava": (
        [461, 511, 711, 761],
        {60: 0.03999999910593033, 470: 0.03999999910593033},
    ),  # its membrane is a step late, too
}
CLOSE = {"spinnaker2": 1e-5}  # which rounds its decay


@pytest.mark.fidelity(
    model="nir",
    reference="the traces of `paper/01_lif` in the NIR repository: snnTorch, SpiNNaker2, sinabs, Lava",
    compared="the steps in which one LIF fires, and its membrane in some of them",
    closely="spikes equal, membranes to 1e-7; SpiNNaker2's, which rounds its decay, to 1e-5",
    differs="Lava's membrane comes a step later, as its spikes do",
)
@pytest.mark.parametrize("platform", PUBLISHED)
def test_the_other_platforms_fire_when_they_did(platform, expected):
    steps, values = PUBLISHED[platform]
    neuron, params = snf.nir.read(found(GRAPHS / "lif_norse.nir"), platform=platform)
    xs = torch.from_numpy(expected["lif/input"]).float()[:, None]
    assert run(neuron, params, xs)[:, 0].nonzero().flatten().tolist() == steps
    mem = membranes(neuron, params, xs, "1")[:, 0]
    assert all(abs(float(mem[step]) - value) < CLOSE.get(platform, 1e-7) for step, value in values.items())


@pytest.mark.fidelity(
    model="nir",
    reference="`braille_noDelay_bias_zero.nir` of the paper, which Norse and SpikingJelly run bit for bit alike",
    compared="spikes of both layers of a recurrent CubaLIF network, 256 steps of 8 samples",
    closely="spikes equal",
    differs="nothing; `before` says what a recurrent edge holds before the first step",
)
@pytest.mark.parametrize("before, name", [("nothing", "no-first-bias"), ("silence", "first-bias")])
def test_the_recurrent_graph(before, name, expected):
    neuron, params = snf.nir.read(found(GRAPHS / "braille_noDelay_bias_zero.nir"), before=before)
    assert neuron.step.recurrent == (("lif1.w_rec", "lif1.lif"),)
    xs = torch.from_numpy(expected["braille/input"])
    assert np.array_equal(run(neuron, params, xs), expected[f"braille/zero/{name}/out"])
    state, hidden = neuron.init(params, xs[0]), []
    for x in xs:
        _, state = neuron.step(params, state, x)
        hidden.append(state["lif1.lif"].mem)
    fired = torch.from_numpy(expected[f"braille/zero/{name}/hid"]).bool()
    assert (torch.stack(hidden)[fired] == 0).all()  # reset to 0
    plan = str(snf.explain(neuron.step, params, neuron.init(params, xs[0]), xs))
    assert plan.startswith("layer by layer") and "one kernel: state['lif2'].syn" in plan and "the loop" not in plan


def frames(raw):
    """1 ms each from the first event on, [T, 2, 34, 34]; the incomplete last one is dropped."""
    x, y, high, middle, low = np.frombuffer(raw, np.uint8).reshape(-1, 5).astype(np.int64).T
    t = ((high & 127) << 16) | (middle << 8) | low
    step, steps = (t - t[0]) // 1000, (t[-1] - t[0]) // 1000
    places = (((step * 2 + (high >> 7)) * 34 + y) * 34 + x)[step < steps]
    return np.bincount(places, minlength=steps * 2 * 34 * 34).reshape(-1, 2, 34, 34).astype(np.float32)


@pytest.mark.fidelity(
    model="nir",
    reference="`cnn_sinabs.nir` of the paper and ten recordings of N-MNIST",
    compared="spikes counted at each output over some 300 frames; the predictions",
    closely="counts equal, ten of ten right",
    differs="nothing",
)
@pytest.mark.long
def test_the_convolutional_graph_sees_digits(expected):
    graph = found(GRAPHS / "cnn_sinabs.nir", SHARED / "data" / "nmnist.zip")
    with zipfile.ZipFile(SHARED / "data" / "nmnist.zip") as file:
        where = {Path(name).name: name for name in file.namelist()}
        seen = [torch.from_numpy(frames(file.read(where[f"{n}.bs2"]))) for n in expected["cnn/recordings"]]
    neuron, params = snf.nir.read(graph)
    xs = torch.nn.utils.rnn.pad_sequence(seen)
    counts = run(neuron, params, xs).sum(0)
    assert np.array_equal(counts, expected["cnn/counts"])
    assert np.array_equal(counts.argmax(1), expected["cnn/label"])


@pytest.mark.parametrize("name", ["lif_norse", "braille_noDelay_bias_zero", "cnn_sinabs"])
def test_what_was_read_is_written_as_it_was(name, tmp_path):
    import h5py

    pytest.importorskip("nir")
    theirs = found(GRAPHS / f"{name}.nir")
    ours = tmp_path / "ours.nir"
    snf.nir.write(*snf.nir.read(theirs), ours)
    with h5py.File(theirs) as a, h5py.File(ours) as b:
        edges = [sorted(map(tuple, file["node/edges"][()].tolist())) for file in (a, b)]
        assert edges[0] == edges[1]
        for node in a["node/nodes"]:
            for key, x in a["node/nodes"][node].items():
                y = b["node/nodes"][node][key]
                assert np.array_equal(x[()], y[()]) and (x.dtype.kind != "f" or x.dtype == y.dtype), (node, key)
