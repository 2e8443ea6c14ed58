"""`snntorch.functional.reg`: the regulariser, as an object that `backprop` knows by its `__name__`."""

from torch import Tensor

from ... import losses


class l1_rate_sparsity:
    """`l1_rate_sparsity(Lambda)(spk_out)` is Lambda times the number of spikes: `snf.losses.l1_rate_sparsity`."""

    __name__ = "l1_rate_sparsity"

    def __init__(self, Lambda: float = 1e-5) -> None:
        self.Lambda = Lambda

    def __call__(self, spk_out: Tensor) -> Tensor:
        return losses.l1_rate_sparsity(spk_out, self.Lambda)
