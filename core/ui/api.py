"""The named endpoints: what the page does, as JSON in and JSON out, through the same queue."""

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, get_args

import gradio as gr
from gradio.events import api
from pydantic import TypeAdapter, ValidationError

from .. import canonical, experiments, lens, receipts
from ..errors import UserError
from ..pairs import Pair, find_pair, label
from ..pool import Pool
from ..replay import replay
from ..run import Run
from ..steps import Steps, Stop, seldom, watch
from ..study import served
from ..study.export import StudyReport
from ..study.plan import StudyPlan
from ..study.run import StudyProgress
from ..types import Answer, AnyReceipt, Comparison, LensContext, LensReport, Receipt, Side, explain

Endpoint = Callable[..., Iterator[dict | None]]
PERIOD = 0.25  # seconds between two moments at which a client that has gone is noticed

# What the endpoints do, and the tools of core/ui/tools.py.


def compared(pool: Pool, asked: Comparison) -> Steps[object, Answer]:
    with (yield from pool.open(asked.pair, tokens=asked.sampling.max_new_tokens)) as lease:
        run = yield from Run.begin(lease, asked)
        yield from run.snapshots(lambda: PERIOD)
        return receipts.answer(run.result())


def read(pool: Pool, receipt: Receipt, side: Side, context: LensContext) -> Steps[object, LensReport]:
    with (yield from pool.open(receipt.comparison.pair)) as lease:
        return (yield from lens.report(lease, receipt, side, context))


def studied(pool: Pool, asked: StudyPlan) -> Steps[StudyProgress, StudyReport]:
    for pair in asked.pairs:
        find_pair(pool.pairs, pair)
    study = yield from seldom(served.perform(pool, asked, Stop()), PERIOD)
    if study.ended:
        raise UserError(study.ended)
    return study.report


def listed(pool: Pool) -> list[dict[str, Any]]:
    """The pairs that can be asked for; a model from a folder has its name only."""

    def shown(pair: Pair) -> dict[str, Any]:
        stages = [{"name": stage.name, "source": label(stage.source)} for stage in pair.stages]
        return pair.model_dump(mode="json") | {"base": label(pair.base), "post": label(pair.post), "stages": stages}

    return [shown(pair) for pair in pool.pairs]


def add(blocks: gr.Blocks, pool: Pool, limits: dict[str, Any]) -> None:
    """Register /compare, /replay, /lens, /experiment, /study and /pairs in `blocks`, which are being built.

    They are generators that yield nothing while they work, /study how far it is, so that Gradio can close them, and with them
    what they ask of the models, when a client cancels or hangs up.
    """

    @_spoken
    def compare_endpoint(comparison: dict[str, Any]) -> Iterator[dict[str, Any] | None]:
        """Run a Comparison; returns the Answer, with its receipt. Both are described by the JSON Schemas in docs/schemas/."""
        asked = Comparison.model_validate(comparison)
        yield canonical.dump((yield from watch(compared(pool, asked), _quiet)))

    @_spoken
    def replay_endpoint(receipt: dict[str, Any]) -> Iterator[dict[str, Any] | None]:
        """Run a receipt again, from scratch; returns the Verdict."""
        yield canonical.dump((yield from watch(replay(pool, receipts.from_data(receipt)), _quiet)))

    @_spoken
    def lens_endpoint(
        receipt: dict[str, Any], side: Side = "post", context: LensContext = "identical"
    ) -> Iterator[dict[str, Any] | None]:
        """The token lens of one side ("base" or "post") of a receipt, or of what /compare returned; returns the LensReport.

        `context` is what the sibling reads: the "identical" token ids, or its "own" framing.
        """
        written, side_, context_ = receipts.within(receipt), _chosen(side, Side), _chosen(context, LensContext)
        yield canonical.dump((yield from watch(read(pool, written, side_, context_), _quiet)))

    @_spoken
    def experiment_endpoint(name: str, pair: str | None = None) -> Iterator[dict[str, Any] | None]:
        """Run a guided experiment on a pair (default: the page's); returns the ExperimentVerdict, with the exact comparisons."""
        experiment = experiments.find(name)
        with (yield from watch(pool.open(pair or pool.default.id), _quiet)) as lease:
            steps = experiments.perform(experiment, lease)
            yield canonical.dump((yield from watch(steps, _quiet)))

    @_spoken
    def study_endpoint(plan: dict[str, Any]) -> Iterator[dict[str, Any] | None]:
        """Run a StudyPlan; yields StudyProgress while it goes on, and returns the StudyReport, with the receipt of the whole study."""
        asked = StudyPlan.model_validate(plan)
        yield canonical.dump((yield from watch(studied(pool, asked), canonical.dump)))

    def pairs_endpoint() -> list[dict[str, Any]]:
        """The pairs that can be asked for; a model from a folder has its name only."""
        return listed(pool)

    takes: dict[Any, Any] = {
        compare_endpoint: Comparison,
        replay_endpoint: AnyReceipt,
        lens_endpoint: Receipt,
        experiment_endpoint: None,
        study_endpoint: StudyPlan,
    }
    for endpoint, kind in takes.items():
        made = api(endpoint, api_name=endpoint.__name__.removesuffix("_endpoint"), **limits)
        if kind is not None:  # Gradio makes a schema of a dict that says nothing of what is in it
            first: Any = blocks.blocks[made["inputs"][0]]
            first._api_info = _open(TypeAdapter(kind).json_schema())
    api(pairs_endpoint, api_name="pairs", queue=False)


def _open(schema: Any) -> Any:
    """A schema as Gradio reads it: `additionalProperties` is a schema there, never a word that forbids them."""
    if isinstance(schema, dict):
        return {key: _open(item) for key, item in schema.items() if item is not False or key != "additionalProperties"}
    return [_open(item) for item in schema] if isinstance(schema, list) else schema


def _spoken(endpoint: Endpoint) -> Endpoint:
    """The endpoint, whose mistakes by those who ask reach them as one sentence.

    It answers once before it asks anything of a model: Gradio can close only what has answered.
    """

    @wraps(endpoint)
    def spoken(*given: Any, **named: Any) -> Iterator[dict | None]:
        yield None
        try:
            yield from endpoint(*given, **named)
        except ValidationError as error:
            raise _said(explain(error)) from None
        except UserError as error:
            raise _said(error) from None

    return spoken


def _said(error: UserError) -> gr.Error:
    """For whoever asked, and not for the log: a mistake that is expected is no fault, and it may quote what was asked."""
    return gr.Error(str(error), print_exception=False)


def _quiet(step: object) -> None:
    """Every step is a moment at which all of it can be closed, and nothing to show."""


def _chosen(value: str, kind: Any) -> Any:
    """`value`, which is one of the names that `kind` lists. Raises UserError with these names."""
    if value not in get_args(kind):
        raise UserError(f"{str(value)[:40]!r} is none of {', '.join(get_args(kind))}.")
    return value
