"""The Compare tab: one prompt to both models, and what came of it."""
