"""Several processes that train together, as `accelerate launch` or torchrun starts them: who writes, and agreement.

Light: torch is imported where there are several.
"""

import os
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def count() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def on_one_machine() -> bool:
    return int(os.environ.get("LOCAL_WORLD_SIZE", count())) == count()


def first() -> bool:
    """Whether this process writes to the store and the folders; a process alone does."""
    return int(os.environ.get("RANK", "0")) == 0


def shared(make: Callable[[], Value]) -> Value:
    """What `make` gives in the first process, in all of them; the others wait for it."""
    if count() == 1:
        return make()
    import torch
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    PartialState(cpu=not torch.cuda.is_available())
    found = [make() if first() else None]
    broadcast_object_list(found)
    return found[0]  # type: ignore[return-value]
