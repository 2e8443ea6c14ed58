"""`snntorch.import_nir`: an honest error for now."""

from ._nir import import_from_nir as import_from_nir
