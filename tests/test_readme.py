"""The README's code runs, in order, as it stands; and what CI runs is the README's own command."""

import re
import socket
import subprocess
from pathlib import Path

import pytest
import torch

import snn_functional as snf


ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.S)


@pytest.fixture(scope="module")
def names():
    torch.manual_seed(0)
    space = {"__name__": "readme"}
    with pytest.MonkeyPatch.context() as patch, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        # What torchrun sets, for one process.
        rendezvous = {"MASTER_ADDR": "127.0.0.1", "RANK": "0", "WORLD_SIZE": "1"}
        for name, value in (rendezvous | {"MASTER_PORT": str(free.getsockname()[1])}).items():
            patch.setenv(name, value)
        free.close()
        patch.setenv("SNN_FUNCTIONAL_OPTIMIZE", "1")  # it trains for seconds
        for i, block in enumerate(BLOCKS):
            exec(compile(block, f"README.md[{i}]", "exec"), space)
    return space


def test_first_screen(names):
    assert set(names["per_sample"].beta.shape) == {32}
    loss, xs = names["rate"], names["xs"]
    one = torch.func.grad(loss)(snf.LeakyParams(0.9), xs[:, 5])
    torch.testing.assert_close(names["per_sample"].beta[5], one.beta)


def test_the_training_script_learns_what_it_says(names):
    model, (w, leaky, _, last) = names["model"], names["trained"]
    assert [name for name, _ in model.named_parameters()] == ["0.weight", "0.bias", "2.weight", "2.bias", "3.beta"]
    assert w.weight.grad.abs().sum() > 0 and leaky.beta == 0.9 and last.beta != 0.9


def test_a_deep_network_fires_as_it_was_told(names):
    found = snf.diagnose(
        names["deep"].step, names["tree"], names["deep"].init(names["tree"], names["xs"][0]), names["xs"]
    )
    assert not found.problems and all(abs(rate - 0.1) < 0.01 for rate in found.rates.values())
    assert not names["membranes"][~names["valid"]].any() and names["membranes"][names["valid"]].abs().min() > 0


def test_the_added_neuron_is_a_neuron(names):
    alif = names["alif"]
    params, xs = names["AlifParams"](beta=0.9), torch.rand(40, 3, 5)
    state = alif.init(params, xs[0])
    spks, last = snf.scan(alif.step, params, state, xs)
    first, middle = snf.scan(alif.step, params, state, xs[:17])
    second, end = snf.scan(alif.step, params, middle, xs[17:])
    assert torch.equal(torch.cat([first, second]), spks) and torch.equal(end.adapt, last.adapt)
    plain = snf.scan(snf.leaky_step, snf.LeakyParams(0.9), snf.leaky_init(snf.LeakyParams(0.9), xs[0]), xs)[0]
    assert 0 < spks.sum() < plain.sum()


def test_the_kernels_readme_shows_what_is_printed():
    x, params = torch.zeros(3, 2, 8), snf.LeakyParams(0.9)
    plan = snf._scan._known.prepare(snf.leaky_step, params, snf.leaky_init(params, x[0]), x, 3).known.plan
    printed = plan.forward((True, True)).source + plan.backward((True, True), (2, 3)).source
    lines = {line.strip() for line in printed.splitlines()}
    text = (ROOT / "snn_functional/kernels/README.md").read_text()
    shown = [
        line.partition("//")[0].strip()
        for line in re.findall(r"^    (.*)$", text.partition("## The same program in Triton")[0], re.M)
    ]
    shown = [line for line in shown[shown.index("for (i64 i = 0; i < n; ++i) {") :] if line]
    assert len(shown) > 30 and set(shown) <= lines


def test_what_the_readme_shows_is_there():
    for target in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / target).is_file()


def test_ci_runs_the_readmes_test_command():
    command = re.search(r"^python3 -m venv .*-m pytest -n 2$", README, flags=re.M)
    found = subprocess.run(
        ["sed", "-n", r"s/^\(python3 -m venv .*-m pytest -n 2\)$/\1/p", "README.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert command and found.stdout.strip() == command[0]


def test_second_screen(names):
    samples = names["samples"]
    assert samples[0].weight.shape == (32, 64, 256) and names["ensemble"][2].weight.shape == (8, 10, 64)
