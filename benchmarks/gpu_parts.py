"""What `make gpu` measures, part by part: each makes the rows of one table about one pair."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import clients, engine
from benchmarks.subjects import Subject
from core.engine import certify, device, experts, step
from core.engine.device import Placement
from core.engine.engine import Engine, lane_sizes
from core.engine.lane import Lane
from core.engine.slots import usable_context
from core.engine.step import replaying
from core.types import Request

Row = dict[str, Any]
KERNELS = 12  # of each pass, those that take the longest


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    replies: int = 1000  # that are asked again
    others: int = 64
    compared: int = 24  # requests whose replies are written in two ways
    context: int = 16_384
    at_once: tuple[int, ...] = engine.AT_ONCE
    repetitions: int = 3

    @classmethod
    def dry(cls) -> "Size":
        return cls(replies=8, others=3, compared=2, context=512, at_once=(1,))

    def asked(self, replies: int | None, others: int | None, repetitions: int) -> "Size":
        """With what somebody wants otherwise."""
        return replace(
            self,
            replies=replies or self.replies,
            others=self.others if others is None else others,
            repetitions=repetitions,
        )


@dataclass(frozen=True)
class Run:
    """One part for one pair; `until` is the moment, of time.perf_counter, when it begins nothing new."""

    subject: Subject
    placement: Placement
    size: Size
    until: float

    @contextmanager
    def engines(self) -> Iterator[list[Engine]]:
        with ExitStack() as left:
            engines = self.subject.engines(self.placement)
            for each in engines:
                left.callback(each.close)
            yield engines

    def compared(self, engines: Sequence[Engine]) -> list[Request]:
        """Requests that are written in two ways, from scratch."""
        asked = clients.varied(self.size.compared, 3, self.subject.vocabulary, min(engines[0].context, 512))
        return [each.model_copy(update={"reuse": False}) for each in asked]


def in_time(rows: Iterator[Row], until: float) -> Iterator[Row]:
    """At least one of these rows, and no new one when it is late."""
    for row in rows:
        yield row
        if time.perf_counter() > until:
            print("the rest of this part is left out: its time is over", flush=True)
            return


def certification(run: Run) -> Iterator[Row]:
    """Whether neighbours matter, for each lane length that the app would use with the first model and at each level."""
    subject, model, shape = run.subject, run.subject.models[0], run.subject.shape(run.placement)
    gpu = run.placement.device.type == "cuda"
    first, threads = model.config._attn_implementation, torch.get_num_threads()
    levels = certify.levels(
        subject.attention(run.placement), shape.threads, experts.without_neighbours(model), near=gpu
    )
    context = min(usable_context(model.config), run.size.context)
    try:
        for size in lane_sizes(context, shape.chunk):
            for level in levels:
                model.set_attn_implementation(level.attention)
                torch.set_num_threads(level.threads)
                began = time.perf_counter()
                with device.own_stream(run.placement.device), torch.inference_mode(), replaying(run.placement.device):
                    lane = _lane(subject, size, level)
                    holds = certify.neighbours_do_not_matter(lane, draw_together=gpu)
                graph = lane.ahead is not None and lane.ahead.recorded
                yield {
                    "pair": subject.name,
                    "lane": size,
                    "slots": lane.slots,
                    "level": level.description,
                    "certified": "yes" if holds else "NO",
                    "a graph": "yes" if graph else "no",
                    "attention kernel": ", ".join(lane.attention_kernels) or "-",
                    "seconds": time.perf_counter() - began,
                }
                del lane
                device.give_back()
    finally:
        model.set_attn_implementation(first)
        torch.set_num_threads(threads)


def _lane(subject: Subject, size: int, level: certify.Level, slots: int | None = None) -> Lane:
    model = subject.models[0]
    on = next(model.parameters()).device
    shape = subject.shape(Placement(on, model.dtype))
    return Lane(
        model,
        slots=slots or shape.slots,
        length=size,
        chunk=shape.chunk,
        vocabulary=subject.vocabulary,
        attention=level.attention,
        together=level.together,
        experts=level.experts,
        near=level.near,
        pool=torch.cuda.graph_pool_handle() if on.type == "cuda" else None,
    )


def replays(run: Run) -> Iterator[Row]:
    """Replies asked again while others are there."""
    with run.engines() as engines:
        yield clients.replays(run.subject, engines, run.size.replies, run.size.others, run.until)


def graphs(run: Run) -> Iterator[Row]:
    """The same replies by recorded steps and by steps that start their operations one by one."""
    with run.engines() as engines:
        asked = run.compared(engines)
        mine, recorded = _timed(lambda: _together(engines, asked)), engines[0].info().certification
    with _unrecorded(), run.engines() as engines:
        theirs, plain = _timed(lambda: _together(engines, asked)), engines[0].info().certification
    yield {"pair": run.subject.name, **_compared(mine, theirs), "engine": recorded, "without": plain}


def streams(run: Run) -> Iterator[Row]:
    """The same replies by both engines at once, each on its stream, and by one after the other."""
    with run.engines() as engines:
        asked = run.compared(engines)

        def one_by_one() -> list[list[Any]]:
            return [reply for each in engines for reply in _together([each], asked)]

        def at_once() -> list[list[Any]]:
            both = clients.together(engines, asked)
            return [pair[number].tokens for number in range(len(engines)) for pair in both]

        yield {"pair": run.subject.name, **_compared(_timed(at_once), _timed(one_by_one))}


@contextmanager
def _unrecorded() -> Iterator[None]:
    """Inside, every step is run operation by operation."""

    def plain(made_of: step.StepFunction, *how: Any) -> step.StepFunction:
        return made_of

    with mock.patch.object(step, "record", plain):
        yield


def _together(engines: Sequence[Engine], asked: Sequence[Request]) -> list[list[Any]]:
    """The tokens of every reply, as many at once as there are slots."""
    return [reply.tokens for both in clients.together(engines, asked) for reply in both]


Timed = tuple[list[list[Any]], float]


def _timed(way: Callable[[], list[list[Any]]]) -> Timed:
    """The tokens of replies and how many seconds they took; what happens only the first time is not counted."""
    way()
    began = time.perf_counter()
    return way(), time.perf_counter() - began


def _compared(one: Timed, other: Timed) -> Row:
    """How many replies are the same in both ways, and how much faster the first is."""
    (mine, seconds), (theirs, longer) = one, other
    return {
        "replies": len(mine),
        "identical": sum(map(list.__eq__, mine, theirs)),
        "tokens/s": sum(map(len, mine)) / seconds,
        "times as fast": longer / seconds,
    }


def audit(run: Run) -> Iterator[Row]:
    """Replies under torch's flag for determinism."""
    with run.engines() as engines:
        yield clients.audit(run.subject, engines, run.size.compared)


def kernels(run: Run) -> Iterator[Row]:
    """The kernels that take the longest in the reading of a chunk and in a decode step, operation by operation, by torch's profiler."""
    subject, shape = run.subject, run.subject.shape(run.placement)
    level = certify.levels(subject.attention(run.placement), shape.threads)[0]
    gpu = run.placement.device.type == "cuda"
    draw = random.Random(1)
    with device.own_stream(run.placement.device), torch.inference_mode(), replaying(run.placement.device):
        with _unrecorded():
            lane = _lane(subject, lane_sizes(1024, shape.chunk)[-1], level)
        prompt = [draw.randrange(subject.vocabulary) for _ in range(lane.chunk)]
        passes: dict[str, Callable[[], Any]] = {
            "a chunk": lambda: lane.read(prompt, 0),
            "a step": lambda: lane.write([1] * lane.slots, [lane.chunk] * lane.slots),
        }
        for name, work in passes.items():
            work()
            with profile(activities=[ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU]) as seen:
                work()
                if gpu:
                    torch.cuda.synchronize()
            yield from _longest(subject, name, seen.key_averages(), gpu)


def _longest(subject: Subject, work: str, events: Any, gpu: bool) -> Iterator[Row]:
    times = {
        each.key: (each.self_device_time_total if gpu else each.self_cpu_time_total, each.count) for each in events
    }
    whole = sum(time for time, _ in times.values()) or 1
    for name, (microseconds, count) in sorted(times.items(), key=lambda each: -each[1][0])[:KERNELS]:
        yield {
            "pair": subject.name,
            "pass": work,
            "kernel": name[:100],
            "calls": count,
            "us": float(microseconds),
            "share": f"{microseconds / whole:.1%}",
        }


def speed(run: Run) -> Iterator[Row]:
    """The engine against transformers.generate in three ways."""
    ways = engine.GENERATE | dict(engine.STATIC)
    if run.placement.device.type != "cuda":  # where transformers compiles nothing by itself
        ways.pop("generate, static cache, compiled")
    with run.engines() as engines:
        yield from engine.speed_of(run.subject, engines, run.size.repetitions, run.size.at_once, ways)


PARTS: dict[str, tuple[str, Callable[[Run], Iterator[Row]]]] = {
    "certify": ("Certification", certification),
    "replay": ("Asked again while others are there", replays),
    "graphs": ("By recorded steps, and operation by operation", graphs),
    "streams": ("Both models at once, and one after the other", streams),
    "audit": ("Under torch's flag for determinism", audit),
    "kernels": ("Kernels by torch's profiler", kernels),
    "speed": ("Engine against transformers.generate", speed),
}
