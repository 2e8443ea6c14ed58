"""From a pointwise step to one kernel over all of time, forward and backward. See README.md in this folder."""

import threading

from ._build import find as find, NoCompiler as NoCompiler
from ._plan import Plan as Plan
from ._program import Unsupported as Unsupported


lock = threading.RLock()  # reading and building happen once, one at a time
