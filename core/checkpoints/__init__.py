"""A source of weights -> a model in memory: found, brought here, loaded, fingerprinted and certified.

A source is a folder, a Hub id with an optional revision, or a PEFT adapter on top of a base model. Only
safetensors are loaded, and code from a repository is never run. Nothing in here knows visitors.
"""
