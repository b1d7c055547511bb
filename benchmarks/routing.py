"""Why a mixture of experts in bfloat16 can be nats away from the same weights in float32: routing at a tie, or a fault?

    python -m benchmarks.routing                                   tiny Qwen3-MoE models with random weights
    python -m benchmarks.routing mixtral --seeds 4 --tokens 64     another family
    python -m benchmarks.routing --speed                           what a decode pass costs by each way of computing experts

Each row is one model and one prompt, read in bfloat16 and, with the same weights, in float32. "differs" is the largest difference of a
log-probability between the two, in nats, and "elsewhere" the largest at tokens that go to the same experts in both. Then bfloat16 is sent to the
experts that float32 chose: "sent along" is what is left for the plain pass, "engine" what is left for the engine, which reads the prompt in chunks and
writes its end. "flips" counts the choices, a layer of a token each, that bfloat16's router would still make otherwise there; "gap" is
the largest distance among them, in float32, of the last expert that was chosen from the first that was not, in steps of bfloat16 at the router's
largest logit, and "as near" how many of all choices are so near.
"""

import argparse
import logging
import random
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from time import process_time
from typing import Any

import torch
from transformers import PreTrainedModel, Qwen3MoeConfig

from benchmarks import families
from benchmarks.report import Row, table
from core.engine import experts, reference
from core.engine.lane import Lane

CHUNK = 16


@contextmanager
def _router_logits(model: PreTrainedModel) -> Iterator[list[torch.Tensor]]:
    """Inside, the list gets the logits [tokens, experts] of each layer's router in turn."""
    found: list[torch.Tensor] = []

    def after(module: torch.nn.Module, given: Any, returned: Any) -> None:
        found.append(returned[0].float().clone())

    with ExitStack() as hooks:
        for module in model.modules():
            if type(module).__name__.endswith("Router"):
                hooks.enter_context(module.register_forward_hook(after))
        yield found


def examine(family: str, seed: int, tokens: int) -> Row:
    """One row of the table."""
    model = families.random_model(families.tiny(family), torch.bfloat16, "sdpa", seed)
    draw = random.Random(seed)
    prompt = [draw.randrange(families.VOCABULARY) for _ in range(tokens)]

    def passed(wide: bool = False) -> tuple[torch.Tensor, list[experts.Route], torch.Tensor]:
        widened = reference._in_wider_arithmetic(model) if wide else nullcontext()
        with torch.no_grad(), widened, experts.taken_down(model) as routes, _router_logits(model) as logits:
            found = reference._logprobs(model, prompt, list(range(tokens)), families.VOCABULARY)
        return found, routes, torch.stack(logits)

    wide, routes, router = passed(wide=True)
    narrow, own, _ = passed()
    with experts.sent_along(model, routes):
        sent, _, router_sent = passed()
    with torch.inference_mode(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
        lane = Lane(model, slots=4, length=tokens, chunk=CHUNK, vocabulary=families.VOCABULARY, attention="sdpa")
        with lane.unrecorded(), experts.sent_along(model, routes):
            lane.begin()
            engine = list(reference._reading_and_writing(lane, prompt, 0, dict(enumerate(wide))))

    same = torch.stack([_set(a) == _set(b) for a, b in zip(own, routes, strict=True)]).all(-1).all(0)
    chosen = routes[0].experts.shape[1]
    flipped = (_best(router_sent, chosen) != _best(router, chosen)).any(-1)
    gaps = _gap_in_steps(router, chosen)
    gap = float(gaps[flipped].max()) if flipped.any() else 0.0
    return {
        "family": family,
        "seed": seed,
        "differs": _largest(narrow - wide),
        "elsewhere": _largest((narrow - wide)[same]),
        "sent along": _largest(sent - wide),
        "engine": max(nats for _, nats in engine),
        "flips": int(flipped.sum()),
        "gap": gap,
        "as near": f"{int((gaps <= gap).sum())} of {gaps.numel()}",
    }


def speed(passes: int = 12) -> Iterator[Row]:
    """A row for each dtype: processor time of a decode pass of four slots, the shortest of several in turns, beside that of grouped experts."""
    config = Qwen3MoeConfig(
        hidden_size=1024,
        moe_intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        num_experts=32,
        num_experts_per_tok=8,
        vocab_size=8000,
    )
    ways: dict[str, dict[str, Any]] = {
        "grouped": {},
        "row by row": {"experts": experts.ROW_BY_ROW},
        "one pass for each slot": {"together": False},
        "batched_mm": {"experts": "batched_mm"},
    }
    for dtype, attention in ((torch.float32, "eager"), (torch.bfloat16, "sdpa")):
        model = families.random_model(config, dtype, attention)
        with torch.inference_mode(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            lanes = {
                way: Lane(model, slots=4, length=128, chunk=64, vocabulary=8000, attention=attention, **changes)
                for way, changes in ways.items()
            }
            draw, best = random.Random(0), dict.fromkeys(ways, float("inf"))
            for position in range(passes):
                tokens = [draw.randrange(8000) for _ in range(4)]
                for way, lane in lanes.items():
                    began = process_time()
                    lane.write(tokens, [position] * 4)
                    best[way] = min(best[way], process_time() - began)
        row: Row = {"dtype": str(dtype).removeprefix("torch."), "grouped, ms": 1000 * best["grouped"]}
        yield row | {f"{way}, times": best[way] / best["grouped"] for way in ways if way != "grouped"}


def _largest(difference: torch.Tensor) -> float:
    return float(difference.abs().max())


def _set(route: experts.Route) -> torch.Tensor:
    return route.experts.sort(-1).values


def _best(router: torch.Tensor, chosen: int) -> torch.Tensor:
    return router.topk(chosen, -1).indices.sort(-1).values


def _gap_in_steps(router: torch.Tensor, chosen: int) -> torch.Tensor:
    """How far the last expert that was chosen is ahead of the next one, in steps of bfloat16 (8 bits of significand) at the token's largest logit."""
    ahead = router.topk(chosen + 1, -1).values[..., -2:]
    step = 2.0 ** (router.abs().amax(-1).log2().floor() - 7)
    return (ahead[..., 0] - ahead[..., 1]) / step


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.routing", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("family", nargs="?", default="qwen3_moe", help="one whose routers are modules of their own")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument(
        "--speed", action="store_true", help="time decode passes of a mixture of 200 million parameters"
    )
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    torch.set_num_threads(1)
    if arguments.speed:
        print(table(list(speed())))
        return
    print(table([examine(arguments.family, seed, arguments.tokens) for seed in range(arguments.seeds)]))


if __name__ == "__main__":
    main()
