"""Work that reports its steps and ends in a result."""

from contextvars import ContextVar
from threading import Event

import pytest

from core.steps import Stop, Stopped, apart, finish, watch


def work(log: list[str]):
    try:
        yield 1
        yield 1
        yield 2
        return "done"
    finally:
        log.append("closed")


def test_finish_returns_the_result_and_reports_each_new_step_once():
    log: list = []
    assert finish(work(log), log.append) == "done"
    assert log == [1, 2, "closed"]


def test_watch_shows_every_step_and_hands_the_result_on():
    def outer():
        return (yield from watch(work([]), str)) + "!"

    shown: list[str] = []
    assert finish(watch(outer(), shown.append)) == "done!"
    assert shown == ["1", "1", "2"]


def test_closing_the_watcher_closes_the_work():
    log: list[str] = []
    watching = watch(work(log), str)
    next(watching)
    watching.close()
    assert log == ["closed"]


def test_a_stop_closes_the_work_and_says_so():
    log: list[str] = []
    stop = Stop()
    watching = watch(work(log), str, stop)
    next(watching)
    stop.press()
    with pytest.raises(Stopped):
        next(watching)
    assert log == ["closed"]


def test_a_stop_calls_what_hangs_on_it_whether_that_came_before_or_after():
    log: list[str] = []
    stop = Stop()
    stop.also(lambda: log.append("before"))
    assert not stop.pressed and not log
    stop.press()
    stop.also(lambda: log.append("after"))
    assert stop.pressed and log == ["before", "after"]


def test_a_mistake_of_the_work_is_not_swallowed():
    def broken():
        yield 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        finish(broken())


def test_work_apart_gives_its_result_or_raises_what_it_raises():
    assert finish(apart(lambda stop: "done")) == "done"
    with pytest.raises(ZeroDivisionError):
        finish(apart(lambda stop: 1 // 0))


def test_work_apart_is_told_to_end_when_nobody_waits_for_it_any_more():
    begun, ended = Event(), Event()

    def work(stop: Stop) -> None:
        stop.also(ended.set)
        begun.set()
        ended.wait(30)
        stop.check()

    waiting = apart(work)
    assert next(waiting) is None and begun.wait(30) and not ended.is_set()
    waiting.close()
    assert ended.is_set()


def test_a_stop_that_is_asked_ends_the_work_only_once_it_was_pressed():
    stop = Stop()
    stop.check()
    stop.press()
    with pytest.raises(Stopped):
        stop.check()


def test_work_apart_is_done_for_whoever_asked():
    asking = ContextVar("asking", default="nobody")
    asking.set("a visitor")
    assert finish(apart(lambda stop: asking.get())) == "a visitor"
