"""`snntorch.export_nir`: an honest error for now."""

from ._nir import export_to_nir as export_to_nir
