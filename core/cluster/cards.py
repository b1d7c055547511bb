"""What is known of a model, from a replica to a page server: its card as plain data, the tokenizer as the files that it is read from."""

import json
import tempfile
from pathlib import Path
from typing import Any

from ..checkpoints.tokenizers import read_tokenizer
from ..lease import Card
from ..types import CheckpointInfo, EngineInfo

_CONFIG = "tokenizer_config.json"
_OF_THE_MACHINE = ("is_local", "local_files_only", "name_or_path")


def card_of(card: Card) -> dict[str, Any]:
    return {
        "info": card.info.model_dump(),
        "weights_sha256": card.weights_sha256,
        "engine": card.engine.model_dump(),
        "stop_ids": sorted(card.stop_ids),
        "context": card.context,
        "vocabulary": card.vocabulary,
        "lacks": card.lacks,
        "tokenizer": _files(card.tokenizer),
    }


def card_from(plain: dict[str, Any]) -> Card:
    """Raises ValidationError, KeyError or UserError for what is no card."""
    info, engine = CheckpointInfo.model_validate(plain["info"]), EngineInfo.model_validate(plain["engine"])
    with tempfile.TemporaryDirectory() as folder:
        for name, content in plain["tokenizer"].items():
            (Path(folder) / Path(name).name).write_bytes(content)
        tokenizer = read_tokenizer(Path(folder), info.name)
    return Card(
        info=info,
        weights_sha256=plain["weights_sha256"],
        tokenizer=tokenizer,
        stop_ids=frozenset(plain["stop_ids"]),
        engine_now=lambda: engine,
        context=plain["context"],
        vocabulary=plain["vocabulary"],
        lacks=tuple(plain["lacks"]),
    )


def _files(tokenizer: Any) -> dict[str, bytes]:
    """As transformers saves it, under the name of a class that transformers has: `read_tokenizer` may have made one of its own."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        files = {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}
    known = next(kind for kind in type(tokenizer).__mro__ if kind.__module__.startswith("transformers."))
    config = {name: value for name, value in json.loads(files[_CONFIG]).items() if name not in _OF_THE_MACHINE}
    files[_CONFIG] = json.dumps(config | {"tokenizer_class": known.__name__}).encode()
    return files
