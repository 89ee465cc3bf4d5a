"""Calls that a GPU repeats as one CUDA graph, without waiting for launches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch

from harness.core.errors import ConfigError

WARM_UP = 3
"""Calls before a recording, in which libraries choose their kernels and reserve memory."""
Result = TypeVar("Result")


def record(call: Callable[[], Result], generators: Iterable[torch.Generator] = ()) -> Callable[[], Result]:
    """Record a call as a CUDA graph; return a function that repeats it and returns the same tensors every time.

    The call draws from these generators. `ConfigError` if the GPU cannot record it.
    """
    graph = torch.cuda.CUDAGraph()
    for generator in generators:
        graph.register_generator_state(generator)
    try:
        # Meanwhile another thread may use the GPU.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = call()
    except RuntimeError as error:
        first: BaseException = error  # the end of a recording that failed fails too
        while first.__context__:
            first = first.__context__
        why = str(first).partition("\n")[0]
        raise ConfigError("train.graph", f"the GPU cannot record this as a graph: {why}. Choose off.") from None

    def repeat() -> Result:
        graph.replay()
        return result

    return repeat
