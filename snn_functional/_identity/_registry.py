"""What is remembered from call to call: so many things and no more, by keys that keep nothing of the user's alive, safe in threads."""

import collections
import threading
from collections.abc import Hashable
from typing import Any, Generic, TypeVar


T = TypeVar("T")


class Registry(Generic[T]):
    """The last `size` values that were put or found."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._values: collections.OrderedDict[Hashable, T] = collections.OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any) -> T | None:
        # Looking up runs the keys' own comparisons: only the order is written under the lock.
        value = self._values.get(key)
        if value is not None:
            with self._lock:
                if key in self._values:
                    self._values.move_to_end(key)
        return value

    def put(self, key: Any, value: T) -> T:
        """The value that is known under this key from now on: that of the thread that came first."""
        with self._lock:
            value = self._values.setdefault(key, value)
            while len(self._values) > self.size:
                self._values.popitem(last=False)
        return value

    def __len__(self) -> int:
        return len(self._values)

    def clear(self) -> None:
        with self._lock:
            self._values.clear()
