"""`snntorch.export_nir`."""

from ._nir import export_to_nir as export_to_nir
