"""The Experiments tab: the guided experiments as cards, runs and verdicts."""
