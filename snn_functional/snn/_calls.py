"""The names of `_functionalize/_calls.py` under which `_run.py` knows them."""

from .._functionalize._calls import (
    Calls as Calls,
    holds_the_loop as holds_the_loop,
    loops_itself as loops_itself,
    on_a_copy as on_a_copy,
    remembering as remembering,
    takes_all_of_time as takes_all_of_time,
    watched as watched,
)
