"""Engines come and go, with every pair that is loaded and every reply of a weights dial, and leave nothing behind."""

import ctypes
import gc
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from core.engine import Engine, portable
from core.engine.engine import Shape
from tests import tiny

ONE_LANE = Shape(slots=2, chunk=16, sizes=(64,), threads=1)


def serve_and_close(attention: str = "eager") -> weakref.ref:
    """An engine over a model of its own, recorded and closed; a reference to its weights that keeps nothing."""
    model = tiny.model(seed=1, attn_implementation="eager").requires_grad_(False)
    engine = Engine(model, tiny.VOCABULARY, ONE_LANE, attention)
    deadline = time.monotonic() + 60
    while not engine._lanes[64].step(1).recorded:  # portable ones are recorded beside
        assert time.monotonic() < deadline, "tracing failed, and every step runs in Python"
        time.sleep(0.01)
    engine.close()
    return weakref.ref(model.get_input_embeddings().weight)


def megabytes() -> float:
    """What the process has in memory."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def test_a_recording_is_one_of_torchs_own_functions_and_keeps_nothing_once_it_is_dropped():
    model = tiny.model(seed=1, attn_implementation="eager").requires_grad_(False)
    engine = Engine(model, tiny.VOCABULARY, ONE_LANE, "eager")
    recorded: Any = engine._lanes[64].step(1)._run
    assert isinstance(recorded.func, torch.jit.ScriptFunction), "tracing failed, and every step runs in Python"
    weights = weakref.ref(model.get_input_embeddings().weight)
    engine.close()
    del engine, model
    gc.collect()
    assert weights() is not None, "the recording has them, not a copy"
    del recorded
    gc.collect()
    assert weights() is None


@pytest.mark.slow
@pytest.mark.parametrize("attention, cycles", [("eager", 50), (portable.NAME, 5)])
def test_memory_is_flat_over_engines_that_come_and_go(attention, cycles):
    for _ in range(3):
        serve_and_close(attention)
    before, objects = megabytes(), len(gc.get_objects())
    for _ in range(cycles):
        weights = serve_and_close(attention)
    after = megabytes()
    assert weights() is None
    assert len(gc.get_objects()) - objects < 200
    assert after - before < 20, "torch.jit.trace kept 6 MB of each"
