"""Same Seed: one prompt, one seed, two stages of training, and the proof that nothing else changed."""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

# What is imported from the package itself, and the module that has it (docs/reference/README.md).
_PUBLIC = {"compare": "python", "serve": "python", "Comparison": "types", "Settings": "settings"}


def __getattr__(name: str) -> Any:
    """Looked up when it is asked for: whoever imports the package waits for no library."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_PUBLIC[name]}", __name__), name)
