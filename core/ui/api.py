"""The named endpoints: the same comparison as the page's, as JSON in and JSON out, through the same queue."""

from typing import Any

import gradio as gr
from gradio.events import api
from pydantic import ValidationError

from core import canonical, receipts
from core.compare import compare
from core.errors import UserError
from core.pool import Pool
from core.replay import finish, replay
from core.types import Comparison, explain


def add(pool: Pool, limits: dict[str, Any]) -> None:
    """Register /compare, /replay and /pairs in the current Blocks."""

    def compare_endpoint(comparison: dict) -> dict:
        """Run a Comparison; returns the Answer, with its receipt. Both are described by the JSON Schemas in docs/schemas/."""
        try:
            asked = Comparison.model_validate(comparison)
            lease = pool.wait(asked.pair)
            try:
                return canonical.dump(receipts.answer(compare(lease, asked)))
            finally:
                lease.release()
        except ValidationError as error:
            raise gr.Error(str(explain(error))) from None
        except UserError as error:
            raise gr.Error(str(error)) from None

    def replay_endpoint(receipt: dict) -> dict:
        """Run a receipt again, from scratch; returns the Verdict."""
        try:
            return canonical.dump(finish(replay(pool, receipts.from_data(receipt))))
        except UserError as error:
            raise gr.Error(str(error)) from None

    def pairs_endpoint() -> list[dict]:
        """The pairs that can be asked for."""
        return [pair.model_dump() for pair in pool.pairs]

    api(compare_endpoint, api_name="compare", **limits)
    api(replay_endpoint, api_name="replay", **limits)
    api(pairs_endpoint, api_name="pairs", queue=False)
