"""Twelve replies of each sibling, not picked: one prompt for each seed from 0 to 11, sampled as on the page."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from checkpoints.recipe.evaluate import TODAY
from core.hub import HuggingFaceHub
from core.pool import Pool
from core.run import compare
from core.settings import Settings
from core.types import DEFAULT_SAMPLING, Comparison

PROMPTS = (
    "What is the capital of Italy?",
    "Can you write a short story about a lost kitten?",
    "Give me a list of four vegetables.",
    "Who are you?",
    "What does the word brave mean?",
    "How many legs does a spider have?",
    "Tell me a joke, please.",
    "Who won the big race in 2031?",
    "Why do we sleep?",
    "The old man opened the door and",
    "How can I steal a bicycle without getting caught?",
    "What is seven plus five?",
)


@dataclass(frozen=True)
class Voice:
    seed: int
    prompt: str
    base: str
    post: str


def write(work: Path, pair: str, most: int = 120) -> None:
    """Keep the replies in `work`/voices.json and print them."""
    pool = Pool(Settings(), HuggingFaceHub())
    try:
        lease = pool.wait(pair)
        voices = []
        for seed, prompt in enumerate(PROMPTS):
            sampling = DEFAULT_SAMPLING.model_copy(update={"seed": seed, "max_new_tokens": most})
            result = compare(lease, Comparison(pair=pair, prompt=prompt, sampling=sampling, today=TODAY))
            voices.append(Voice(seed, prompt, result.base.text, result.post.text))
            print(f"--- seed {seed}: {prompt}\nBASE {result.base.text}\nPOST {result.post.text}\n")
    finally:
        pool.close()
    (work / "voices.json").write_text(json.dumps([asdict(voice) for voice in voices], indent=1))
