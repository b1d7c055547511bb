"""Studies: prompts, seeds and checkpoints, so that a difference of rates is told instead of an anecdote.

They know replies and how to count them, neither tensors nor pages; what writes a reply is handed in.
"""
