"""The names of `_functionalize/_memory.py` under which `_over_time.py` knows them."""

from .._functionalize._memory import of_library as of_library
