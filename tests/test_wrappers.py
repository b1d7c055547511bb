"""Models that also read pictures or sounds: their text model alone is loaded, and computes what the whole one computes of a text."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from benchmarks import families
from core.checkpoints import loading
from core.checkpoints.sources import Source
from core.engine.device import Placement
from core.errors import UserError
from core.hub import HuggingFaceHub
from core.settings import Settings
from core.types import CheckpointInfo
from core.ui.compare import render
from tests import tiny

PLACEMENT = Placement(torch.device("cpu"), torch.float32)
EYES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "patch_size": 4,
    "image_size": 16,
}
# The wrapper, its text model as benchmarks.families calls it, and what is particular about its eyes and about itself.
WHOLE = {
    "Gemma3": ("gemma3_text", EYES, {"mm_tokens_per_image": 4}),
    "Gemma4": ("gemma4_text", EYES, {"audio_config": None}),
    "Mistral3": ("ministral3", {**EYES, "model_type": "pixtral"}, {}),
    "Qwen3_5": (
        "qwen3_5_text",
        {
            "depth": 1,
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_heads": 2,
            "out_hidden_size": 32,
            "patch_size": 4,
        },
        {},
    ),
}
LEFT_OUT = {
    "Gemma3": ("multi_modal_projector", "vision_tower"),
    "Gemma4": ("embed_vision", "vision_tower"),
    "Mistral3": ("multi_modal_projector", "vision_tower"),
    "Qwen3_5": ("visual",),
}
IDS = torch.tensor([[(7 * i) % 150 for i in range(40)]])


def saved(name: str, folder: Path, **changes) -> PreTrainedModel:
    """A tiny model with its towers, in a folder as transformers saves it."""
    family, eyes, particular = WHOLE[name]
    text = {**families.tiny(family).to_dict(), **changes}
    config = getattr(transformers, f"{name}Config")(text_config=text, vision_config=eyes, **particular)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(transformers, f"{name}ForConditionalGeneration")(config).eval()
    model.save_pretrained(folder)
    return model


def read(folder: Path) -> tuple[PreTrainedModel, tuple[str, ...]]:
    config = loading.read_config(folder, "whole")
    return loading.read_weights(folder, config, PLACEMENT, "eager", "whole")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", WHOLE)
def test_the_text_model_alone_computes_what_the_whole_model_computes_of_a_text(name, tmp_path):
    whole = saved(name, tmp_path)
    alone, left_out = read(tmp_path)
    assert left_out == LEFT_OUT[name]
    assert type(alone).__name__.endswith("ForCausalLM")
    with torch.inference_mode():
        whole.set_attn_implementation("eager")
        assert torch.equal(alone(IDS).logits, whole(IDS).logits)
    assert sum(each.numel() for each in alone.parameters()) < sum(each.numel() for each in whole.parameters())


@pytest.mark.filterwarnings("ignore")
def test_a_text_model_inside_is_whole_or_refused(tmp_path):
    saved("Gemma3", tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    inside = next(key for key in weights if key.endswith("layers.0.mlp.up_proj.weight"))
    save_file({**weights, inside.replace("layers.0", "layers.9"): weights[inside].clone()}, file, {"format": "pt"})
    with pytest.raises(UserError, match=r"have no place for model\.layers\.9\.mlp\.up_proj\.weight"):
        read(tmp_path)
    save_file({key: tensor for key, tensor in weights.items() if key != inside}, file, {"format": "pt"})
    with pytest.raises(UserError, match=r"lack model\.layers\.0\.mlp\.up_proj\.weight"):
        read(tmp_path)


def test_a_text_model_that_has_towers_beside_it_is_read_without_what_they_need(tmp_path):
    """Gemma 3n's tower is made by a library that is not installed here; nobody asks for it."""
    text = families.tiny("gemma3n_text")
    model = families.random_model(text, torch.float32, "eager")
    weights = {
        ("lm_head.weight" if key.startswith("lm_head") else key.replace("model.", "model.language_model.", 1)): tensor
        for key, tensor in model.state_dict().items()
        if key != "lm_head.weight"
    }
    save_file(
        {**weights, "model.vision_tower.stem.weight": torch.zeros(2)}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    whole = transformers.Gemma3nConfig(text_config=text.to_dict())
    (tmp_path / "config.json").write_text(json.dumps(whole.to_dict()))
    alone, left_out = read(tmp_path)
    assert left_out == ("vision_tower",)
    with torch.inference_mode():
        assert torch.equal(alone(IDS).logits, model(IDS).logits)


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_that_was_trained_on_the_whole_model_is_merged_into_it(tmp_path):
    whole = saved("Gemma3", tmp_path / "base", vocab_size=tiny.VOCABULARY)
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    trained = get_peft_model(whole, LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    trained.save_pretrained(tmp_path / "adapter")
    base = Source("base", "base", None, tmp_path / "base", None)
    source = Source("adapter", "adapter", None, tmp_path / "adapter", None, adapter_of=base)
    settings = Settings(context=64, slots=2, threads=1)
    checkpoint = loading.load(source, HuggingFaceHub(), settings, PLACEMENT, lambda doing, share: None)
    checkpoint.close()
    with torch.inference_mode():
        assert torch.allclose(checkpoint.model(IDS).logits, trained(IDS).logits, atol=1e-4)


def test_the_head_of_a_reply_says_that_pictures_are_not_read():
    said = render.model("post", render.Model("Gemma", left_out=("embed_vision", "vision_tower")))
    assert "text alone: pictures and sounds are not read; not loaded: embed_vision, vision_tower" in said
    assert "pictures" not in render.model("post", render.Model("Gemma"))
    assert CheckpointInfo(name="a", source="a", revision=None, parameters=1).left_out == ()
