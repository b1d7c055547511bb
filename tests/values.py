"""Values of the vocabulary: hand-made receipts, and Hypothesis strategies for comparisons of any text."""

from hypothesis import strategies as st

from core import __version__, receipts
from core.prompts import digest
from core.types import (
    DEFAULT_SAMPLING,
    FRAMINGS,
    CheckpointInfo,
    Comparison,
    Conversation,
    EngineInfo,
    OneSidedReceipt,
    Receipt,
    Record,
    Sampling,
    Side,
    SideReceipt,
    Turn,
    Usage,
)

ENGINE = EngineInfo(
    sampler="v1",
    dtype="float32",
    attention="eager",
    slots=4,
    lane_sizes=(256, 1024),
    chunk=64,
    threads=1,
    device="cpu x86_64",
    versions={"same-seed": __version__, "torch": "2.13.0"},
    certified=True,
    certification="eager attention, 1 thread, all slots in one pass",
    deviation={"nats": 0.25, "bound": 0.5, "token": 7},
)
COMPARISON = Comparison(pair="embedded", prompt="What is the sea?", sampling=DEFAULT_SAMPLING, today="2026-01-02")


def side_receipt(*token_ids: int, weights: str = "a", **changes) -> SideReceipt:
    """One side's receipt with these tokens; consistent unless `changes` says otherwise."""
    margins = tuple(0.5 + i for i in range(len(token_ids)))
    usage = Usage(
        prompt_tokens=7,
        reused_tokens=0,
        output_tokens=len(token_ids),
        prefill_passes=1,
        decode_passes=max(0, len(token_ids) - 1),
        seconds_queued=0.0,
        seconds_to_first_token=0.1,
        seconds_decoding=0.2,
    )
    given = {
        "checkpoint": CheckpointInfo(name="Tiny", source="owner/Tiny", revision="c" * 40, parameters=1000),
        "weights_sha256": weights * 64,
        "engine": ENGINE,
        "sampling": DEFAULT_SAMPLING,
        "prompt_tokens": 7,
        "prompt_sha256": "d" * 64,
        "token_ids": token_ids,
        "output_sha256": digest(token_ids),
        "finish_reason": "eos",
        "smallest_margin": min(margins, default=None),
        "margins": margins,
        "usage": usage,
    }
    return SideReceipt(**{**given, **changes})


def receipt(comparison: Comparison = COMPARISON, base=(5, 6, 7), post=(8, 9), **changes) -> Receipt:
    """A sound receipt. `changes` go to both sides."""
    sides = (
        side_receipt(*ids, weights=weights, **{"sampling": comparison.sampling, **changes})
        for ids, weights in ((base, "a"), (post, "b"))
    )
    return receipts.make(comparison, *sides)


def one_sided(
    comparison: Comparison = COMPARISON, writer: Side = "post", ids=(8, 9), prompt_ids=(), stops=(), **changes
) -> OneSidedReceipt:
    """A sound receipt of one side alone."""
    sent = {"prompt_sha256": digest(prompt_ids), "prompt_tokens": len(prompt_ids)} if prompt_ids else {}
    weights = {"base": "a", "post": "b"}[writer]
    reply = side_receipt(*ids, weights=weights, **{"sampling": comparison.sampling, **sent, **changes})
    return receipts.make_one_sided(comparison, writer, reply, prompt_ids, stops)


def record(prompt: str, base: str = "", post: str = "", failed: str = "", **changes) -> Record:
    """A turn as the page keeps it; the side `failed` has no receipt."""
    given = {
        "turn": Turn(prompt=prompt, base=base or f"{prompt} and so on", post=post or f"About {prompt}: yes."),
        "pair": "embedded",
        "system": "",
        "sampling": DEFAULT_SAMPLING,
        "framing_base": "document",
        "framing_post": "chat",
        "today": "2026-01-02",
        "base": None if failed == "base" else side_receipt(1, 2, 3),
        "post": None if failed == "post" else side_receipt(4, 5, weights="b"),
    }
    return Record(**{**given, **changes})


# --- any value ----------------------------------------------------------------------------------------

# All of Unicode but halves of surrogate pairs, which are not text; control characters and NUL included.
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)
LONG_TEXTS = st.builds(lambda text, times: text * times, TEXTS, st.sampled_from([1, 1, 1, 40, 1700]))
TURNS = st.builds(Turn, prompt=TEXTS, base=LONG_TEXTS, post=TEXTS)
SAMPLINGS = st.builds(
    Sampling,
    seed=st.integers(0, 2**53 - 1),
    temperature=st.one_of(st.just(0), st.floats(0.01, 2)),
    top_k=st.integers(0, 1_000_000),
    top_p=st.floats(0, 1, exclude_min=True),
    min_p=st.floats(0, 1),
    repetition_penalty=st.floats(0.1, 2),
    max_new_tokens=st.integers(1, 32_768),
)
COMPARISONS = st.builds(
    Comparison,
    pair=st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=30),
    conversation=st.builds(Conversation, system=TEXTS, turns=st.lists(TURNS, max_size=4).map(tuple)),
    prompt=LONG_TEXTS,
    sampling=SAMPLINGS,
    framing_base=st.sampled_from(FRAMINGS),
    framing_post=st.sampled_from(FRAMINGS),
    today=st.dates().map(lambda day: day.isoformat()),
)
