"""What is remembered from call to call: so many things and no more, by keys that keep nothing of the user's alive, safe in threads."""

import threading
from collections.abc import Hashable
from typing import Any, Generic, TypeVar


T = TypeVar("T")


class Registry(Generic[T]):
    """The last `size` values that were put. To find one costs no more than in a dictionary."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._values: dict[Hashable, T] = {}
        self._lock = threading.Lock()

    def get(self, key: Any) -> T | None:
        return self._values.get(key)

    def put(self, key: Any, value: T) -> T:
        """The value that is known under this key from now on: that of the thread that came first."""
        with self._lock:
            value = self._values.setdefault(key, value)
            while len(self._values) > self.size:
                del self._values[next(iter(self._values))]  # the oldest
        return value

    def __len__(self) -> int:
        return len(self._values)
