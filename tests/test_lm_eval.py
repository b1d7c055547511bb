"""lm-eval as it is, over /v1 on the page's server: the numbers of a direct reading, the same whoever else is served."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from core.lease import Lease
from core.types import SIDES, Side
from tests.browser import served
from tests.pairs import OnePair, tiny_lease

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
SCORED = ["same_seed_easy", "same_seed_last_word"]
Evaluate = Callable[..., Any]


@pytest.fixture(scope="module")
def lease() -> Iterator[Lease]:
    with tiny_lease() as lease:
        yield lease


@pytest.fixture(scope="module")
def url(lease) -> Iterator[str]:
    with served(OnePair(lease)) as url:
        yield url


@pytest.fixture(scope="module")
def evaluate(lease, url, tmp_path_factory) -> Iterator[Evaluate]:
    """What lm-eval finds of one side: the results by task, and for each request what it was and what came of it."""
    import datasets
    from lm_eval import evaluator
    from lm_eval.api.registry import get_model
    from lm_eval.tasks import TaskManager

    folder = tmp_path_factory.mktemp("lm-eval")
    lease.base.tokenizer.save_pretrained(folder / "tokenizer")

    def evaluate(side: Side, tasks: list[str], kind: str = "completions", told: Any = None, **asked: Any) -> Any:
        model = get_model(f"local-{kind}".replace("/", "-"))(
            model=f"tiny/{side}",
            base_url=f"{url}/v1/{kind}",
            max_length=lease.loaded[side].engine.context,
            **({"tokenizer": str(folder / "tokenizer")} if kind == "completions" else {}),
            **asked,
        )
        loaded = TaskManager(include_path=str(ROOT / "tests" / "data" / "lm_eval"), include_defaults=False).load(tasks)
        found: Any = evaluator.evaluate(model, loaded, bootstrap_iters=0, **(told or {}))
        samples = {
            task: [
                pair for each in found["samples"][task] for pair in zip(each["arguments"], each["resps"], strict=True)
            ]
            for task in tasks
        }
        return found["results"], samples

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as apart:
        patch.chdir(ROOT)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "datasets")
        # A browser that other tests have open keeps this thread's event loop.
        yield lambda *given, **asked: apart.submit(evaluate, *given, **asked).result()


@contextmanager
def others(url: str) -> Iterator[None]:
    """Eight who go on asking both models."""
    enough = threading.Event()

    def ask(client: OpenAI, number: int) -> None:
        while not enough.is_set():
            side = SIDES[number % 2]
            client.completions.create(model=f"tiny/{side}", prompt="dog " * number, max_tokens=6, seed=number)

    with closing(OpenAI(base_url=f"{url}/v1", api_key="none", timeout=60)) as client, ThreadPoolExecutor(8) as many:
        asking = [many.submit(ask, client, number) for number in range(1, 9)]
        try:
            yield
        finally:
            enough.set()
        for each in asking:
            each.result()


def test_both_models_get_the_scores_of_a_direct_reading_alone_and_beside_eight_others(evaluate, lease, url):
    alone = {side: evaluate(side, SCORED) for side in SIDES}
    with others(url):
        assert {side: evaluate(side, SCORED, num_concurrent=4) for side in SIDES} == alone
    assert alone["base"] != alone["post"]
    for side, (_, samples) in alone.items():
        tokenizer = lease.side(side).tokenizer
        scored = 0
        for (before, after), [(score, _)] in (each for task in SCORED for each in samples[task]):
            whole = tokenizer(before + after, add_special_tokens=False)["input_ids"]
            known = len(tokenizer(before, add_special_tokens=False)["input_ids"])
            read = lease.logprobs(side, whole[:1], [*whole[1:], 0])  # as far as /v1 reads: with one token more
            assert score == sum(read[known - 1 : -1])
            scored += 1
        assert scored == 9 + 3, "each answer to each question, and each last word"


@pytest.mark.parametrize("kind", ["completions", "chat/completions"])
def test_both_models_draw_the_same_replies_alone_and_beside_eight_others(evaluate, url, kind):
    told = {"limit": 2, "apply_chat_template": kind == "chat/completions"}
    alone = {side: evaluate(side, ["same_seed_reply"], kind, told) for side in SIDES}
    with others(url):
        assert {side: evaluate(side, ["same_seed_reply"], kind, told, num_concurrent=4) for side in SIDES} == alone
    assert alone["base"] != alone["post"]
    assert all(isinstance(reply, str) for _, samples in alone.values() for _, [reply] in samples["same_seed_reply"])
