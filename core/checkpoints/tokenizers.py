"""Tokenizers: reading one from a folder, and the ids at which a reply ends."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from .. import chat_template, pairs
from ..errors import UserError
from ..pairs import Pair
from ..prompts import control_tokens
from ..types import SIDES, Side
from .sources import reason


def read_tokenizer(folder: Path, name: str) -> PreTrainedTokenizerFast:
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True, use_fast=True)
    except (ValueError, OSError, ImportError, KeyError) as error:
        raise UserError(f"{name} has no tokenizer that can be loaded here: {reason(error, name, folder)}.") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(f"{name} has only a slow tokenizer; the engine needs one with a tokenizer.json.")
    return tokenizer


def tokenizers_at_hand(pair: Pair) -> dict[Side, PreTrainedTokenizerFast] | None:
    """Both tokenizers of a pair that lies in folders here, without its weights; None for one that does not."""
    tokenizers: dict[Side, PreTrainedTokenizerFast] = {}
    for side in SIDES:
        folder = pairs.folder(pair.spec(side))
        if folder is None or not (folder / "tokenizer.json").exists():
            return None
        tokenizers[side] = read_tokenizer(folder, folder.name)
    return tokenizers


def stop_ids(tokenizer: PreTrainedTokenizerFast, model: PreTrainedModel) -> frozenset[int]:
    """The tokenizer's end of text, everything that the model's generation_config calls one, and what its template writes behind a reply."""
    named: Any = model.generation_config.eos_token_id if model.generation_config else None
    listed = named if isinstance(named, list) else [named]
    control = control_tokens(tokenizer)
    ends = (control[end] for end in chat_template.ends_of_reply(tokenizer, control))
    return frozenset(id for id in (*listed, tokenizer.eos_token_id, *ends) if id is not None)
