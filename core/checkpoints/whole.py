"""Whole weights or none: what the libraries only log about a checkpoint that does not fit is a refusal here."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ..errors import UserError

# Names that a checkpoint has because it was saved from a model in a wrapper: torch.compile's, and data parallelism's.
WRAPPERS = {r"(^|\.)((_orig_mod|module)\.)+": r"\1"}
# Names that a text model has inside of one that also reads pictures or sounds, as transformers writes them and as it wrote them before.
INSIDE = {r"^(?:model\.)?language_model\.lm_head\.": "lm_head.", r"^(?:model\.)?language_model\.(?:model\.)?": "model."}


def weight_files(names: Iterable[str]) -> list[str]:
    """Of the files of a model those with its weights: what stands beside them (consolidated.safetensors) holds the same ones again."""
    weights = [name for name in names if name.endswith(".safetensors")]
    return [name for name in weights if re.fullmatch(r"model(-\d+-of-\d+)?\.safetensors", name)] or weights


def tensor_names(folder: Path) -> set[str]:
    """The names of all tensors of a model in a folder, those in a wrapper as what they wrap."""
    names = set[str]()
    for file in weight_files(path.name for path in folder.iterdir()):
        with safe_open(folder / file, framework="pt") as tensors:
            names |= {re.sub(*next(iter(WRAPPERS.items())), name) for name in tensors.keys()}  # noqa: SIM118  # no dictionary
    return names


def beside_the_text(names: set[str]) -> set[str]:
    """Of these tensors what stands beside the text model of one that also reads pictures or sounds; nothing where it reads text alone."""
    text = {name for name in names if re.match(r"(model\.)?language_model\.", name)}
    return {name for name in names - text if not name.startswith("lm_head.")} if text else set()


def parts(names: Iterable[str]) -> tuple[str, ...]:
    """What these tensors belong to: the first word of their names that tells."""
    return tuple(sorted({name.removeprefix("model.").split(".")[0] for name in names}))


def check_whole(what: str, missing: Iterable[str], surplus: Iterable[str], mismatched: Iterable[Any] = ()) -> None:
    """Raises UserError where a model would be served with random values in some places, or without some of its own."""
    for keys, fault in ((missing, "lack"), (mismatched, "have another shape of"), (surplus, "have no place for")):
        names = sorted(key if isinstance(key, str) else key[0] for key in keys)
        if names:
            more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
            raise UserError(
                f"{what} {fault} {names[0]}{more}; save the whole model with save_pretrained and try again."
            )
