"""A trained model -> a folder that plain transformers loads: bf16 safetensors, tokenizer, generation settings."""

from pathlib import Path

from tokenizers import Tokenizer
from transformers import GenerationConfig, PreTrainedModel

from checkpoints.recipe.tokenizer import DOCUMENT, TURN_END, for_transformers


def export(model: PreTrainedModel, tokenizer: Tokenizer, folder: Path, *, post_trained: bool) -> None:
    """Write the folder. The base ends a page at end-of-text; the post-trained model ends its turn."""
    document, turn_end = tokenizer.token_to_id(DOCUMENT), tokenizer.token_to_id(TURN_END)
    stop = [turn_end, document] if post_trained else [document]
    copy = type(model)(model.config).bfloat16()
    copy.load_state_dict(model.state_dict())
    copy.config.eos_token_id = stop
    copy.generation_config = GenerationConfig(bos_token_id=document, eos_token_id=stop, pad_token_id=document)
    copy.save_pretrained(folder)
    for_transformers(
        tokenizer, post_trained=post_trained, context=model.config.max_position_embeddings
    ).save_pretrained(folder)
