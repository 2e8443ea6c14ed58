"""snnTorch's tutorials give the same losses here as there, step for step, with the same seeds."""

import pytest


snntorch = pytest.importorskip("snntorch")

import tutorials  # noqa: E402


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "tutorial",
    [tutorials.fully_connected, tutorials.convolutional, tutorials.bptt, tutorials.regression],
    ids=lambda f: f.__name__,
)
def test_the_same_losses_step_for_step(tutorial):
    mine, theirs = tutorial(tutorials.ours()), tutorial(tutorials.snntorchs())
    assert mine[0] == pytest.approx(theirs[0], rel=1e-4)
    assert mine[1] == pytest.approx(theirs[1], abs=0.02)
