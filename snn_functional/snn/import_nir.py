"""`snntorch.import_nir`."""

from ._nir import import_from_nir as import_from_nir
