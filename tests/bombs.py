"""Files that run code where they are read without care; each makes a file `ran` in the working directory."""

from __future__ import annotations

import os
from typing import Any


class Bomb:
    """Unpickled, it runs a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)
