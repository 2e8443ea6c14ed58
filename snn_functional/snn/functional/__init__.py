"""`snntorch.functional`: losses, accuracies, a regulariser, state quantisation, monitors and STDP under snnTorch's names.

    from snn_functional.snn import functional as SF

    loss_fn = SF.ce_rate_loss()
    loss = loss_fn(spk_rec, targets) + SF.l1_rate_sparsity(1e-4)(spk_rec)

Thin faces over the pure functions of `snf.losses`, `snf.metrics`, `snf.quant` and `snf.learning`.
"""

from . import acc as acc, loss as loss, probe as probe, quant as quant, reg as reg, stdp_learner as stdp_learner
from .acc import accuracy_rate as accuracy_rate, accuracy_temporal as accuracy_temporal
from .loss import (
    ce_count_loss as ce_count_loss,
    ce_max_membrane_loss as ce_max_membrane_loss,
    ce_rate_loss as ce_rate_loss,
    ce_temporal_loss as ce_temporal_loss,
    LossFunctions as LossFunctions,
    mse_count_loss as mse_count_loss,
    mse_membrane_loss as mse_membrane_loss,
    mse_temporal_loss as mse_temporal_loss,
    SpikeTime as SpikeTime,
)
from .probe import (
    AttributeMonitor as AttributeMonitor,
    BaseMonitor as BaseMonitor,
    GradInputMonitor as GradInputMonitor,
    GradOutputMonitor as GradOutputMonitor,
    InputMonitor as InputMonitor,
    OutputMonitor as OutputMonitor,
    unpack_len1_tuple as unpack_len1_tuple,
)
from .reg import l1_rate_sparsity as l1_rate_sparsity
