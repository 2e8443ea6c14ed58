"""snnTorch's tutorials, with one import changed, learn what they should."""

import pytest
import torch
import tutorials
from torch import nn


@pytest.mark.parametrize(
    "tutorial, at_least",
    [(tutorials.fully_connected, 0.85), (tutorials.convolutional, 0.75)],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_it_learns_the_digits(tutorial, at_least):
    losses, accuracy = tutorial(tutorials.ours())
    assert losses[-1] < 0.85 * losses[0] and accuracy > at_least


@pytest.mark.parametrize("tutorial", [tutorials.bptt, tutorials.regression], ids=lambda f: f.__name__)
def test_its_loss_falls(tutorial):
    losses, _ = tutorial(tutorials.ours())
    assert losses[-1] < 0.85 * losses[0]


def test_the_convolutional_tutorial_in_one_line_instead_of_a_loop():
    """`snn.run` where the tutorial has its loop over time: the same spikes."""
    lib = tutorials.ours()
    net = tutorials.convolutional_network(lib)
    x, _ = next(iter(tutorials.digits(32)))
    looped = torch.stack([net(x)[0] for _ in range(10)])
    lib.utils.reset(net)
    assert lib.snn.explain(net, x.expand(10, *x.shape)).startswith("layer by layer")
    assert torch.equal(lib.snn.run(net, x.expand(10, *x.shape))[0], looped)
    assert isinstance(net, nn.Sequential)
