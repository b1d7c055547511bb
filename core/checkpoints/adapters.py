"""A PEFT adapter merged into its base, and held against the two side by side before it is served."""

from pathlib import Path

import torch
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open
from transformers import PreTrainedModel

from ..engine import reference
from ..errors import UserError
from .sources import reason
from .whole import check_whole


def merge_adapter(model: PreTrainedModel, folder: Path, name: str) -> PreTrainedModel:
    """The adapter merged into these weights, which are its own copy of the base.

    Raises:
        UserError: it was trained on another model, or merged it would not be what was trained.
    """
    try:
        _make_room(model, folder)
        names_before = set(model.state_dict())
        adapted = PeftModel.from_pretrained(model, folder, local_files_only=True).eval()
        saved = set(_shapes(folder))
        # Its own tensors, and what may be beside them: matrices that were enlarged are saved whole, under several names.
        own, all_that_fit = (
            set(get_peft_model_state_dict(adapted, save_embedding_layers=more)) for more in (False, True)
        )
        whole = {f"base_model.model.{key}" for key in names_before}
        check_whole(f"The weights of the adapter {name}", own - saved, saved - all_that_fit - whole)
        expected, bound = reference.expected(adapted, at_once=BaseTunerLayer)
        merged: PreTrainedModel = adapted.merge_and_unload(safe_merge=True)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"The adapter {name} does not fit its base model: {reason(error, name, folder)}.") from error
    off = reference.difference(merged, expected)
    if not off <= bound:
        raise UserError(
            f"The adapter {name} is not served: merged into its base it is another model than beside it (off by {off:.2g} nats, where the dtype explains {bound:.2g}); merge it where it was trained and give the merged folder."
        )
    return merged


def _shapes(folder: Path) -> dict[str, list[int]]:
    """The tensors of an adapter: name -> shape."""
    shapes: dict[str, list[int]] = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            shapes |= {key: tensors.get_slice(key).get_shape() for key in tensors.keys()}  # noqa: SIM118  # no dictionary
    return shapes


def _make_room(model: PreTrainedModel, folder: Path) -> None:
    """Rows for tokens that the adapter has added, and a head of its own where it changes only one of two tied matrices."""
    matrices = {model.get_input_embeddings(), model.get_output_embeddings()}
    names = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if module in matrices}
    changed = {key: shape for key, shape in _shapes(folder).items() if names & set(key.split("."))}
    rows = [shape[0] for key, shape in changed.items() if key.endswith(".weight") and ".lora_" not in key]
    if max(rows, default=0) > model.config.get_text_config().vocab_size:
        model.resize_token_embeddings(max(rows), mean_resizing=False)
    config = model.config.get_text_config()
    tied_together = getattr(PeftConfig.from_pretrained(str(folder)), "ensure_weight_tying", False)
    if changed and config.tie_word_embeddings and not tied_together:
        head = model.get_output_embeddings()
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        config.tie_word_embeddings = model.config.tie_word_embeddings = False
