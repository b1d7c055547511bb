"""Same Seed: one prompt, one seed, two stages of training, and the proof that nothing else changed."""

__version__ = "0.2.0"
