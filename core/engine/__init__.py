"""Deterministic generation for many requests at once: token ids in, events out.

This package knows tensors and token ids. It does not know people, prompts, pairs or pages.
"""

from .dial import LogitsDial, WeightsDial
from .engine import Engine, Scored, Scoring, Stoppable, Ticket
from .watch import PATIENCE, Patience

__all__ = [
    "PATIENCE",
    "Engine",
    "LogitsDial",
    "Patience",
    "Scored",
    "Scoring",
    "Stoppable",
    "Ticket",
    "WeightsDial",
]
