"""What neurons divide by, and the length of their step, are above 0: below it they would run backwards without a word."""

import dataclasses

import pytest
import torch

import snn_functional as snf


@pytest.mark.parametrize("tree, names", [
    (snf.AdexParams, ("C", "delta_T", "tau_w", "dt")),
    (snf.BalancedResonateAndFireParams, ("dt",)),
    (snf.ExponentialIntegrateAndFireParams, ("tau", "delta_T")),
    (snf.HodgkinHuxleyParams, ("C", "dt")),
    (snf.IzhikevichEulerParams, ("dt",)),
    (snf.QuadraticIntegrateAndFireParams, ("tau",)),
], ids=lambda x: getattr(x, "__name__", ""))  # fmt: skip
def test_they_are_refused(tree, names):
    for name in names:
        for number in (0.0, -1.0, torch.tensor([1.0, -0.5])):
            with pytest.raises(ValueError, match=rf"{tree.__name__}\({name}=.*\): expected a number above 0"):
                tree(**{name: number})
        # Whoever learns it may look once a step; within a transform nobody can.
        torch.func.vmap(lambda x, name=name: dataclasses.replace(tree(), **{name: x}).threshold)(torch.ones(2))


@pytest.mark.skipif(torch.__version__.startswith("2.0."), reason="has no exponential of half precision on a CPU")
def test_hodgkin_huxley_runs_in_half_precision():
    """Not that it should: its input is kept within what half precision holds."""
    params = snf.HodgkinHuxleyParams(
        **{name: getattr(snf.HodgkinHuxleyParams(), name).half() for name in snf.HodgkinHuxleyParams.__leaves__}
    )
    xs = torch.full((4, 1), 20.0, dtype=torch.float16)
    assert (
        snf.scan(snf.hodgkin_huxley_step, params, snf.hodgkin_huxley_init(params, xs[0]), xs)[0].dtype == torch.float16
    )
