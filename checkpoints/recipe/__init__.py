"""How the embedded pair was made: corpus -> tokenizer -> base -> post-trained, in one command.

Nothing in the product imports this package; it needs the text of `sources.toml`, which is not
part of the repository. `python -m checkpoints.recipe --help` lists the stages.
"""
