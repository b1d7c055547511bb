"""Deterministic generation for many requests at once: token ids in, events out.

This package knows tensors and token ids. It does not know people, prompts, pairs or pages.
"""

from core.engine.engine import Engine, Scored, Scoring, Ticket
from core.engine.sampling import VERSION as SAMPLER_VERSION

__all__ = ["SAMPLER_VERSION", "Engine", "Scored", "Scoring", "Ticket"]
