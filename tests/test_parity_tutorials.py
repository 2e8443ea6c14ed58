"""snnTorch's tutorials give the same losses here as there, step for step, with the same seeds.

To rounding, that is: the gradients differ in the last bit, and after some twenty steps of Adam a rounding tips a spike.
"""

import pytest


snntorch = pytest.importorskip("snntorch")

import tutorials  # noqa: E402


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Converting a tensor with requires_grad")
@pytest.mark.parametrize(
    "tutorial, exact",
    [(tutorials.fully_connected, 24), (tutorials.convolutional, 20), (tutorials.bptt, 2), (tutorials.regression, 30)],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_the_same_losses_step_for_step(tutorial, exact):
    mine, theirs = tutorial(tutorials.ours()), tutorial(tutorials.snntorchs())
    assert len(mine[0]) >= exact and mine[0][:exact] == pytest.approx(theirs[0][:exact], rel=1e-4)
    assert mine[0] == pytest.approx(theirs[0], rel=0.02)
    assert mine[1] == pytest.approx(theirs[1], abs=0.05)
