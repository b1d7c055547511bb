"""Whole weights or none: what the libraries only log about a checkpoint that does not fit is a refusal here."""

from collections.abc import Iterable
from typing import Any

from ..errors import UserError

# Names that a checkpoint has because it was saved from a model in a wrapper: torch.compile's, and data parallelism's.
WRAPPERS = {r"(^|\.)((_orig_mod|module)\.)+": r"\1"}


def check_whole(what: str, missing: Iterable[str], surplus: Iterable[str], mismatched: Iterable[Any] = ()) -> None:
    """Raises UserError where a model would be served with random values in some places, or without some of its own."""
    for keys, fault in ((missing, "lack"), (mismatched, "have another shape of"), (surplus, "have no place for")):
        names = sorted(key if isinstance(key, str) else key[0] for key in keys)
        if names:
            more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
            raise UserError(
                f"{what} {fault} {names[0]}{more}; save the whole model with save_pretrained and try again."
            )
