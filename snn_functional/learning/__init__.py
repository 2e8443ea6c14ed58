"""What trains without backpropagation, as pure steps."""

from ._stdp import stdp_init as stdp_init, stdp_step as stdp_step, StdpParams as StdpParams, StdpState as StdpState
