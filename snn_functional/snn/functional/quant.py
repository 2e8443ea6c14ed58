"""`snntorch.functional.quant`: the state quantiser, a value (`snf.quant.StateQuant`) where snnTorch returns a closure."""

from ...quant import state_quant as state_quant, StateQuant as StateQuant
