"""`snn.Lapicque`: the one face whose constructor takes more than the neuron needs: beta, R and C, of which two tell the third."""

from typing import Any

import torch

from ..neurons import lapicque, lapicque_params
from ._face import stateful


NUMBERS = {"beta": False, "R": False, "C": False, "time_step": 1, "threshold": 1.0}


class Lapicque(stateful(lapicque, "Lapicque", numbers=NUMBERS)):
    __doc__ = f"""{lapicque_params.__doc__}

    With `learn_beta=True`, C follows beta at every step (R does where beta and C were given), so that beta really learns;
    snnTorch 1.0.0 fails on the second backward.
    """

    def _keep(self, numbers: dict[str, Any], learned: set[str], options: dict[str, Any]) -> None:
        choices = {"spike_grad": self.spike_grad, "reset_mechanism": self._reset_mechanism}
        params = lapicque_params(**numbers, **choices)
        given = numbers["beta"]
        beta = torch.exp(-params.time_step / (params.R * params.C)) if given is False or given is None else given
        self._fixed = "C" if beta is given and numbers["C"] is not False else "R"
        kept = {
            "beta": beta,
            "R": params.R,
            "C": params.C,
            "time_step": params.time_step,
            "threshold": params.threshold,
        }
        self._register(kept, learned)

    def params(self, dtype: torch.dtype | None = None) -> Any:
        if not isinstance(self.beta, torch.nn.Parameter):
            return super().params(dtype)
        choices = {"spike_grad": self.spike_grad, "reset_mechanism": self.reset_mechanism}
        known = {"beta": self.beta, self._fixed: getattr(self, self._fixed), "time_step": self.time_step}
        return lapicque_params(**known, threshold=self.threshold, **choices)
