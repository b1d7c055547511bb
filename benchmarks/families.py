"""What the engine does with every causal family of the installed transformers: one row each, from a tiny model with random weights.

    python -m benchmarks.families                 all of them, in float32 and bfloat16
    python -m benchmarks.families llama gpt_neo   these
    python -m benchmarks.families --write         and put the rows into docs/families.md, in place of those of these families

A family is served only if its engine certifies and its log-probabilities agree with a plain forward pass of the
model within the bound (core/engine/reference.py); "differs" is how far they are from it, in nats. Everything else is refused, with the
sentence in the table. "portable" is how far it is in portable arithmetic, or what has no form there. Each family runs in a process of its own and is ended after LIMIT seconds.
"""

import argparse
import logging
import multiprocessing
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from benchmarks.report import Row, table
from core.checkpoints.loading import first_attention, read_config
from core.checkpoints.memory import footprint
from core.engine import Engine, portable
from core.engine.device import Placement
from core.engine.engine import Shape
from core.engine.slots import layer_kinds
from core.errors import UserError

LIMIT = 60  # seconds for one family in one dtype
VOCABULARY = 160
PAGE = Path(__file__).parent.parent / "docs" / "families.md"
BEGIN, END = "<!-- the table of benchmarks/families.py -->", "<!-- its end -->"

# What makes a model tiny, by the names that configurations have for it; where one has no such name nothing is set.
TINY: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "n_embd": 32,
    "d_model": 32,
    "embedding_size": 32,
    "word_embed_proj_dim": 32,
    "intermediate_size": 48,
    "ffn_hidden_size": 48,
    "ffn_dim": 48,
    "n_inner": 48,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "num_hidden_layers": 4,
    "n_layer": 4,
    "n_layers": 4,
    "num_layers": 4,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "num_attention_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_kv_heads": 2,
    "head_dim": 8,
    "rotary_dim": 4,
    "sliding_window": 24,
    "window_size": 24,
    "attention_chunk_size": 24,
    "max_position_embeddings": 256,
    "n_positions": 256,
    "max_seq_len": 256,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCABULARY,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
_DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"] * 2,
}
_MAMBA_2 = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 8}
_SHARED = {  # of six layers the last two read the keys of those before
    "head_dim": 8,
    "num_hidden_layers": 6,
    "num_kv_shared_layers": 2,
    "layer_types": ["sliding_attention", "full_attention"] * 3,
}
_GEMMA_3N = {
    **_SHARED,
    "laurel_rank": 8,
    "altup_num_inputs": 2,
    "activation_sparsity_pattern": [0.5] * 2 + [0.0] * 4,
}
_GEMMA_4 = {**_SHARED, "global_head_dim": 16, "num_global_key_value_heads": 1}
_LLAMA_4 = {"no_rope_layer_interval": 2, "intermediate_size_mlp": 48, "attention_chunk_size": 24, "layer_types": None}
# Families whose layers are named one by one, or that TINY alone does not make whole; None is what the family itself says.
PARTICULAR: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {
        "layer_types": _DELTA["layer_types"],
        "q_lora_rank": 16,
        "n_group": 1,
        "moe_shared_expert_intermediate_size": 16,
        "num_key_value_heads": 4,
    },
    "bamba": {**_MAMBA_2, "attn_layer_indices": [1, 3], "layer_types": None},
    "falcon_h1": {**_MAMBA_2, "mamba_d_ssm": 64, "layer_types": None},
    "falcon_mamba": {"state_size": 8},
    "gemma2": {"query_pre_attn_scalar": 8},
    "gemma3n": _GEMMA_3N,
    "gemma3n_text": _GEMMA_3N,
    "gemma4": _GEMMA_4,
    "gemma4_text": _GEMMA_4,
    "gemma4_unified": _GEMMA_4,
    "gemma4_unified_text": _GEMMA_4,
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {**_MAMBA_2, "layer_types": _DELTA["layer_types"], "shared_intermediate_size": 16},
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "mamba_d_state": 8,
        "mamba_dt_rank": 4,
        "layer_types": None,
    },
    "kimi_linear": {
        "layer_types": _DELTA["layer_types"],
        "linear_head_dim": 8,
        "linear_num_heads": 4,
        "num_key_value_heads": 4,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2, "num_dense_layers": 1},
    "llama4": _LLAMA_4,
    "llama4_text": _LLAMA_4,
    "mamba": {"state_size": 8},
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 2, "chunk_size": 8},
    "nemotron_h": {
        "layers_block_type": ["linear_attention", "mlp", "full_attention", "moe"],
        "layer_types": None,
        "num_hidden_layers": None,
        "ssm_state_size": 8,
        "mamba_num_heads": 8,
        "mamba_head_dim": 8,
        "n_groups": 2,
        "chunk_size": 8,
        "n_group": 1,
        "moe_shared_expert_intermediate_size": 16,
    },
    "olmo_hybrid": {**_DELTA, "linear_num_key_heads": 4},
    "phimoe": {"num_experts_per_tok": 2},
    "qwen3_5": _DELTA,
    "qwen3_5_moe": _DELTA,
    "qwen3_5_moe_text": _DELTA,
    "qwen3_5_text": _DELTA,
    "qwen3_next": _DELTA,
    "recurrent_gemma": {"layer_types": None, "lru_width": 32, "attention_window_size": 24},
    "zamba": {
        "mamba_d_state": 8,
        "n_mamba_heads": 2,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "layer_types": None,
        "attention_head_dim": 16,
        "head_dim": None,
    },
    "zamba2": {
        "mamba_d_state": 8,
        "n_mamba_heads": 8,
        "mamba_headdim": 8,
        "mamba_ngroups": 1,
        "chunk_size": 8,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "layer_types": None,
        "num_mem_blocks": 1,
        "use_mem_rope": True,
        "head_dim": None,
    },
}


def families() -> list[str]:
    """Every model type that transformers has for text generation."""
    return sorted({kind.model_type for kind in AutoModelForCausalLM._model_mapping})


def tiny(family: str) -> Any:
    """A small configuration of a family, layers of each of its kinds included."""
    kind = next(kind for kind in AutoModelForCausalLM._model_mapping if kind.model_type == family)
    outer: Any = kind()
    config = outer.get_text_config()
    changes = {name: value for name, value in TINY.items() if _has(config, name) and not _follows(config, name)}
    if "kv_lora_rank" in changes:  # every head has keys and values of its own there
        changes["num_key_value_heads"] = changes["num_attention_heads"]
    kinds = getattr(config, "layer_types", None)
    if kinds and not _follows(config, "layer_types"):
        some = list(dict.fromkeys(kinds))
        changes["layer_types"] = (some * 4)[:4]
    changes |= PARTICULAR.get(family, {})
    changes = {name: value for name, value in changes.items() if value is not None}
    changed = type(config)(**changes)
    if config is outer:
        return changed
    name = next(name for name, value in vars(outer).items() if value is config)
    return kind(**{name: changed.to_dict()})


def _has(config: PreTrainedConfig, name: str) -> bool:
    """Whether a configuration has a setting of this name, for all layers at once or for each."""
    try:
        return hasattr(config, name)
    except RuntimeError:  # it differs from layer to layer
        return True


def _follows(config: PreTrainedConfig, name: str) -> bool:
    """Whether a configuration computes this from the rest."""
    found = getattr(type(config), config.attribute_map.get(name, name), None)
    return isinstance(found, property) and found.fset is None


def examine(family: str, dtype: str) -> Row:
    """One row of the table."""
    row = row_of(family, dtype, "")
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            config = tiny(family)
            config.save_pretrained(folder)
            config = read_config(Path(folder), family)  # refuses what is no decoder, before anything is made
        row["layers"] = ", ".join(kind.removesuffix("_attention") for kind in layer_kinds(config.get_text_config()))
        placement = Placement(torch.device("cpu"), getattr(torch, dtype))
        footprint(config, placement)
        attention = first_attention(config, placement)
        model = random_model(config, getattr(torch, dtype), attention)
        engine = Engine(model, VOCABULARY, Shape(slots=4, chunk=16, sizes=(64, 128), threads=1), attention)
        info = engine.info()
        engine.close()
        assert info.deviation is not None
        row["level"] = ", ".join(_level(engine)) if info.certified else "-"
        row["differs"], row["bound"] = f"{info.deviation.nats:.1g}", f"{info.deviation.bound:.1g}"
        row["verdict"] = "served" if info.certified else "served, not certified"
        row["portable"] = _portably(model)
    except UserError as refusal:
        row["verdict"] = f"refused: {refusal}"
    except Exception as error:
        row["verdict"] = (
            f"not tried: {type(error).__name__}: {str(error).strip().splitlines()[0][:120] if str(error).strip() else ''}"
        )
    return row


def row_of(family: str, dtype: str, verdict: str) -> Row:
    """A row of which nothing is known but this."""
    return {
        "family": family,
        "layers": "",
        "dtype": dtype,
        "level": "",
        "differs": "",
        "bound": "",
        "portable": "",
        "verdict": verdict,
    }


def _level(engine: Engine) -> Iterator[str]:
    yield engine.level.attention
    if engine.level.experts:
        yield "experts row by row"
    if not engine.level.together:
        yield "one by one"


def random_model(config: PreTrainedConfig, dtype: torch.dtype, attention: str, seed: int = 0) -> PreTrainedModel:
    """A model with random weights, reproducible by its seed; norms and biases are random too."""
    with torch.random.fork_rng(), torch.inference_mode(False), torch.no_grad():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
        model.eval().requires_grad_(False)
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and not name.endswith(("A_log", "dt_bias")):
                parameter.add_(torch.randn(parameter.shape).to(dtype) * 0.05)
    return model


def _portably(model: PreTrainedModel) -> str:
    """How far the same model is from itself in portable arithmetic, in nats, or what it needs that has no form there."""
    try:
        engine = Engine(model, VOCABULARY, Shape(slots=4, chunk=16, sizes=(64, 128), threads=1), portable.NAME)
    except UserError as refusal:
        lacking = re.search(r"no form for (.*); use", str(refusal))
        return f"no: {lacking[1] if lacking else refusal}"
    info = engine.info()
    engine.close()
    assert info.deviation is not None
    return f"{info.deviation.nats:.1g}" if info.certified else "not certified"


def _child(found: Connection, family: str, dtype: str) -> None:
    found.send(examine(family, dtype))


def rows(names: list[str], dtypes: tuple[str, ...] = ("float32", "bfloat16")) -> Iterator[Row]:
    """A row for each family and dtype, each from a process that has LIMIT seconds."""
    fork = multiprocessing.get_context("fork")
    for family in names:
        for dtype in dtypes:
            here, there = fork.Pipe(duplex=False)
            process = fork.Process(target=_child, args=(there, family, dtype), daemon=True)
            process.start()
            there.close()
            row = None
            if here.poll(LIMIT):
                with suppress(EOFError):
                    row = here.recv()
            process.kill()
            process.join()
            said = (
                f"not tried: it took more than {LIMIT} s" if process.exitcode == -9 else "not tried: its process ended"
            )
            yield row or row_of(family, dtype, said)
            if row is None or (row["verdict"].startswith("refused") and not row["layers"]):
                break  # the other dtype would tell no more


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.families", description=__doc__)
    parser.add_argument("families", nargs="*", help="model types; all of them if none is named")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    found = []
    for row in rows(arguments.families or families()):
        found.append(row)
        print(" | ".join(str(value) for value in row.values()), flush=True)
    print(f"\n{table(found)}")
    if arguments.write:
        page = PAGE.read_text("utf-8")
        PAGE.write_text(with_rows(page, found), "utf-8")


def with_rows(page: str, found: list[Row]) -> str:
    """The page with these rows in its table, in place of those of the same families."""
    begin, rest = page.split(BEGIN)
    old, end = rest.split(END)
    lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in old.strip().splitlines()]
    named = {row["family"] for row in found}
    kept: list[Row] = [dict(zip(lines[0], cells, strict=True)) for cells in lines[2:] if cells[0] not in named]
    rows = sorted([*kept, *found], key=lambda row: str(row["family"]))  # stable: dtypes stay as they are
    return f"{begin}{BEGIN}\n\n{table(rows)}\n\n{END}{end}"


if __name__ == "__main__":
    main()
