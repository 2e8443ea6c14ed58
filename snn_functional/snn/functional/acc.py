"""`snntorch.functional.acc`: the accuracies, as 0-d float64 tensors where snnTorch has numpy numbers."""

from ...metrics import accuracy_rate as accuracy_rate, accuracy_temporal as accuracy_temporal
