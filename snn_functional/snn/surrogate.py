"""`snntorch.surrogate`: the functions of `snf.surrogate`, under this path too."""

from ..surrogate import *
