"""Tokenizers: reading one from a folder, and the ids at which a reply ends."""

import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from .. import apart, chat_template, pairs
from ..errors import UserError
from ..pairs import Pair
from ..prompts import control_tokens
from ..types import SIDES, Side
from .sources import reason


def read_tokenizer(place: Path, name: str) -> PreTrainedTokenizerFast:
    """Of a folder or a GGUF file. Raises UserError where there is none that can be read here."""
    return _tried_apart(_of_gguf(place, name) if place.is_file() else _of_folder(place, name), name)


def _of_gguf(path: Path, name: str) -> PreTrainedTokenizerFast:
    from . import gguf_files  # its libraries are only needed for such files

    return gguf_files.read_tokenizer(gguf_files.open_gguf(path, name))


def _of_folder(folder: Path, name: str) -> PreTrainedTokenizerFast:
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True, use_fast=True)
    except (ValueError, OSError, ImportError, KeyError) as error:
        raise UserError(f"{name} has no tokenizer that can be loaded here: {reason(error, name, folder)}.") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(f"{name} has only a slow tokenizer; the engine needs one with a tokenizer.json.")
    return tokenizer


def _tried_apart(tokenizer: PreTrainedTokenizerFast, name: str) -> PreTrainedTokenizerFast:
    """The tokenizer, which cuts no text by a stranger's pattern before a process apart could (apart.py).

    Some patterns take years for a line of text, and nothing can end that here.
    """
    backend = tokenizer.backend_tokenizer
    normalizer, cutter, reader = (
        json.loads(part.__getstate__()) if part is not None else None
        for part in (backend.normalizer, backend.pre_tokenizer, backend.decoder)
    )
    if _REGEX in json.dumps(reader):
        raise UserError(
            f"{name} reads its tokens by a pattern of its own, which is not run here; choose another model."
        )
    if _REGEX not in json.dumps([normalizer, cutter]):
        return tokenizer
    kinds = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
    added = [
        {"id": id, **{kind: getattr(token, kind) for kind in kinds}}
        for id, token in backend.get_added_tokens_decoder().items()
    ]
    cuts = {"version": "1.0", "added_tokens": added, "normalizer": normalizer, "pre_tokenizer": cutter}
    empty = {"model": {"type": "BPE", "vocab": {}, "merges": []}, "post_processor": None, "decoder": None}
    tokenizer.cuts = json.dumps(cuts | empty)
    tokenizer.__class__ = type("TriedApart", (_TriedApart, type(tokenizer)), {})
    return tokenizer


_REGEX = '{"Regex": '


class _TriedApart:
    cuts: str  # a tokenizer.json with no vocabulary

    def __call__(self, text: str | list[str], **options: Any) -> Any:
        try:
            apart.ask(self.cuts, do="encode", texts=[text] if isinstance(text, str) else text)
        except (apart.TooMuch, apart.Refused) as error:
            raise UserError(
                f"The patterns of this model's tokenizer cannot cut this text ({error}); change the text or choose another model."
            ) from None
        return super().__call__(text, **options)  # type: ignore[misc]


def tokenizers_at_hand(pair: Pair) -> dict[Side, PreTrainedTokenizerFast] | None:
    """Both tokenizers of a pair that lies here, without its weights; None for one that does not."""
    tokenizers: dict[Side, PreTrainedTokenizerFast] = {}
    for side in SIDES:
        place = pairs.here(pair.spec(side))
        if place is None or not (place.is_file() or (place / "tokenizer.json").exists()):
            return None
        tokenizers[side] = read_tokenizer(place, place.name)
    return tokenizers


def stop_ids(tokenizer: PreTrainedTokenizerFast, model: PreTrainedModel) -> frozenset[int]:
    """The tokenizer's end of text, everything that the model's generation_config calls one, and what its template writes behind a reply."""
    named: Any = model.generation_config.eos_token_id if model.generation_config else None
    listed = named if isinstance(named, list) else [named]
    control = control_tokens(tokenizer)
    ends = (control[end] for end in chat_template.ends_of_reply(tokenizer, control))
    return frozenset(id for id in (*listed, tokenizer.eos_token_id, *ends) if id is not None)
