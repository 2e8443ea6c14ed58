"""`snf.platforms` against Spyx 1.0.0 and jaxpike 0.1.4: drawn numbers and inputs, forward and gradient.

Their virtual environment has JAX and no torch: it is `$PEERS_DIR/jax` (`.ci/peers` makes it), and one call of its Python answers for all
cases (`jax_peers.py`). Skipped where it is not.
"""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import assert_equal

import snn_functional as snf


platforms = snf.platforms
PYTHON = Path(os.environ.get("PEERS_DIR", "nowhere")) / "jax" / "bin" / "python"
pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="JAX's peers are not in $PEERS_DIR: .ci/peers")
SEEDS, T, SHAPE = range(4), 40, (2, 6)
MAKE = {
    "spyx LIF": lambda n: platforms.spyx(n["beta"], threshold=n["threshold"]),
    "spyx IF": lambda n: platforms.spyx(1.0, threshold=n["threshold"]),
    "spyx CuBaLIF": lambda n: platforms.spyx(n["beta"], n["alpha"], threshold=n["threshold"]),
    "jaxpike subtract": lambda n: platforms.jaxpike(n["tau"], threshold=n["threshold"]),
    "jaxpike zero": lambda n: platforms.jaxpike(n["tau"], threshold=n["threshold"], reset_mechanism="zero"),
}
LEARNED = {"spyx LIF": ("beta",), "spyx IF": (), "spyx CuBaLIF": ("alpha", "beta")}


def drawn(name, seed):
    """Half of the inputs are quarters, so that membranes meet thresholds exactly."""
    random = np.random.default_rng(seed)
    single = name.startswith("jaxpike") or seed % 2  # jaxpike keeps its membrane in float32
    xs = random.normal(0.4, 0.8, (T, *SHAPE))
    xs[..., ::2] = np.round(4 * xs[..., ::2]) / 4
    numbers = {"tau": random.uniform(1.5, 20)} if name.startswith("jaxpike") else {}
    numbers |= {number: random.uniform(0.3, 1) for number in LEARNED.get(name, ())}
    case = {"xs": (3 if "tau" in numbers else 1) * xs, "weights": random.normal(size=(2, T, *SHAPE)), **numbers}
    case["threshold"] = random.choice([0.25, 0.5, 1.0])
    return {key: np.asarray(x, np.float32 if single else np.float64) for key, x in case.items()}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jax")
    cases = {f"{name} {seed}": drawn(name, seed) | {"name": name} for name in MAKE for seed in SEEDS}
    np.savez(folder / "drawn.npz", **{f"{which}/{key}": x for which, case in cases.items() for key, x in case.items()})
    command = [PYTHON, Path(__file__).with_name("jax_peers.py"), folder / "drawn.npz", folder / "answers.npz"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return np.load(folder / "answers.npz")


def compared(name, seed, answers):
    """Spikes and membranes of both, and the gradients of both."""
    case = drawn(name, seed)
    given = {key: torch.from_numpy(x).requires_grad_(key not in ("weights", "threshold")) for key, x in case.items()}
    neuron, params = MAKE[name](given)
    recorded, xs = snf.record(neuron), given["xs"]
    (spks, states), _ = snf.scan(recorded.step, params, recorded.init(params, xs[0]), xs, kind="loop")
    learned = {key: x for key, x in given.items() if x.requires_grad}
    weighted = (given["weights"][0] * spks).sum() + (given["weights"][1] * states.mem).sum()
    slopes = dict(zip(learned, torch.autograd.grad(weighted, list(learned.values()))))
    theirs = {
        key.partition("/")[2]: torch.from_numpy(answers[key])
        for key in answers.files
        if key.startswith(f"{name} {seed}/")
    }
    assert theirs["spks"].any()
    for key, slope in slopes.items():
        close = 1e-9 if slope.dtype == torch.float64 else 2e-3
        torch.testing.assert_close(slope, theirs[f"slope {key}"], rtol=close, atol=close * 10)
    return (spks, states.mem), (theirs["spks"], theirs["mems"])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", [name for name in MAKE if name.startswith("spyx")])
@pytest.mark.fidelity(
    model="lif, cuba_lif (`platforms.spyx`)",
    reference="Spyx 1.0.0, `LIF`, `IF` and `CuBaLIF`",
    compared="spikes, membranes and gradients (inputs, beta, alpha) of 40 drawn steps",
    closely="forward bit for bit, gradients to rounding",
    differs="nothing, as long as XLA does not fuse a product and a sum",
)
def test_spyx(name, seed, answers):
    ours, theirs = compared(name, seed, answers)
    assert_equal(ours, theirs)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", [name for name in MAKE if name.startswith("jaxpike")])
@pytest.mark.fidelity(
    model="lif (`platforms.jaxpike`)",
    reference="jaxpike 0.1.4, `LIF`",
    compared="spikes, membranes and gradients (inputs, tau) of 40 drawn steps, float32",
    closely="spikes equal, membranes to 1e-5, gradients to rounding",
    differs="its tau is the exp of a log",
)
def test_jaxpike(name, seed, answers):
    ours, theirs = compared(name, seed, answers)
    assert_equal(ours[0], theirs[0])
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-5, atol=1e-5)
