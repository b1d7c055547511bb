"""The named endpoints: what the page does, as JSON in and JSON out, through the same queue."""

from typing import Any, get_args

import gradio as gr
from gradio.events import api
from pydantic import ValidationError

from core import canonical, experiments, lens, receipts
from core.compare import compare
from core.errors import UserError
from core.experiments import NewProcesses
from core.pool import Pool
from core.replay import finish, replay
from core.types import Comparison, Context, Side, explain


def add(pool: Pool, processes: NewProcesses, limits: dict[str, Any]) -> None:
    """Register /compare, /replay, /lens, /experiment and /pairs in the current Blocks."""

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

    def lens_endpoint(receipt: dict, side: str = "post", context: str = "identical") -> dict:
        """The token lens of one side ("base" or "post") of a receipt, or of what /compare returned; returns the LensReport.

        `context` is what the sibling reads: the "identical" token ids, or its "own" framing.
        """
        try:
            written, side_, context_ = receipts.within(receipt), _chosen(side, Side), _chosen(context, Context)
            lease = pool.wait(written.comparison.pair)
            try:
                return canonical.dump(lens.run(lens.report(lease, written, side_, context_)))
            finally:
                lease.release()
        except UserError as error:
            raise gr.Error(str(error)) from None

    def experiment_endpoint(name: str, pair: str | None = None) -> dict:
        """Run a guided experiment on a pair (default: the page's); returns the Verdict, with the exact comparisons."""
        try:
            experiment = experiments.find(name)
            lease = pool.wait(pair or pool.default.id)
            try:
                return canonical.dump(experiments.finish(experiments.perform(experiment, lease, processes.ask)))
            finally:
                lease.release()
        except UserError as error:
            raise gr.Error(str(error)) from None

    def pairs_endpoint() -> list[dict]:
        """The pairs that can be asked for."""
        return [pair.model_dump() for pair in pool.pairs]

    api(compare_endpoint, api_name="compare", **limits)
    api(replay_endpoint, api_name="replay", **limits)
    api(lens_endpoint, api_name="lens", **limits)
    api(experiment_endpoint, api_name="experiment", **limits)
    api(pairs_endpoint, api_name="pairs", queue=False)


def _chosen(value: str, kind: Any) -> Any:
    """`value`, which is one of the names that `kind` lists. Raises UserError with these names."""
    if value not in get_args(kind):
        raise UserError(f"{str(value)[:40]!r} is none of {', '.join(get_args(kind))}.")
    return value
