"""The command line on a terminal, in a pipe and on a console that knows few characters: nothing is lost, nothing runs wild."""

import contextlib
import io
import json
import logging
import os
import re
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

import app
from core import cli, receipts
from core.cli import compare as command
from core.cli import experiment, log, replies, terminal
from core.errors import UserError
from core.experiments import EXPERIMENTS
from core.pool import Progress
from core.run import Run
from core.steps import Stop
from core.types import SIDES, CheckpointInfo, Reply
from tests import values
from tests.scripted import ScriptedPool, Ticket
from tests.terminal import Terminal

LONG = "\n".join(f"Line {i} of the first reply, " + "which goes on " * (i % 7) for i in range(60))
SHORT = "A short one. " * 30
WILD = "\x1b[31mred\x9b2J \u202eback\u2066wards\x07 caf\u00e9\r\x7f"
COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-9]m")


@pytest.fixture(scope="module")
def scripted_pool() -> ScriptedPool:
    return ScriptedPool()


@pytest.fixture
def says(scripted_pool, monkeypatch):
    """A function that says what both models write, with a pause in seconds before each token."""
    monkeypatch.setattr(command, "Pool", lambda settings, hub: contextlib.nullcontext(scripted_pool))
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    return scripted_pool.say


@pytest.fixture
def on(monkeypatch):
    """A function that makes standard output a terminal of so many columns."""

    def screen(columns: int, rows: int = 24) -> Terminal:
        shown = Terminal(rows)
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("LINES", str(rows))
        monkeypatch.setattr(sys, "stdout", shown)
        return shown

    return screen


@pytest.fixture
def ctrl_c(monkeypatch):
    """A function that presses Ctrl+C so many times, each when both sides have written more."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a runner in the background has it ignored

    def press(times: int) -> None:
        class Pressed(Run):
            def snapshots(self, period=lambda: 0.02):
                lengths = [10 * (number + 1) for number in range(times)]
                for snapshot in super().snapshots(period):
                    if lengths and all(len(snapshot.reply(side).text) > lengths[0] for side in SIDES):
                        del lengths[0]
                        signal.raise_signal(signal.SIGINT)
                    yield snapshot

        monkeypatch.setattr(command, "Run", Pressed)

    yield press
    signal.signal(signal.SIGINT, before)


def compare(*arguments: str) -> int:
    return app.main(["compare", "--prompt", "Hello", "--seed", "77", *arguments])


def written(text: str) -> str:
    """The words of a text, without how it is broken into rows."""
    return " ".join(text.split())


# --- on a terminal -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("base, post", [(LONG, SHORT), (SHORT, LONG), (LONG, ""), ("\n\n\tTab\n", "\u65e5\u672c " * 90)])  # fmt: skip
def test_a_wide_terminal_shows_columns_and_loses_nothing_of_what_is_longer_than_it_is_high(base, post, says, on):
    says(base, post, pause=0.0004)
    shown = on(120, rows=12)
    assert compare() == 0
    lines = shown.lines()
    top = next(i for i, line in enumerate(lines) if line.startswith("Scripted-Base"))
    heading, columns = " ".join(lines[:top]), [line.partition(" |")[::2] for line in lines[top:] if line]
    assert "seed 77, temperature 0.7" in heading and "framing document (base)" in heading
    assert columns[0][1] == " Scripted-Chat" and columns[1][0].startswith("base; weights bbbbbbbb")
    for side, text in enumerate((base, post)):
        cells = [column[side].strip() for column in columns]
        assert written(" ".join(cells[2:-1])) == written(text)
        assert re.fullmatch(r"[\d,]+ tokens, eos", cells[-1])
    assert COLOUR.search(shown.getvalue())
    assert shown.getvalue().count("\x1b[?25h") == shown.getvalue().count("\x1b[?25l"), "the cursor is there again"


@pytest.mark.slow
def test_a_narrow_terminal_shows_one_reply_after_the_other_while_they_are_written(says, on):
    says(SHORT, LONG, pause=0.0015)
    shown = on(80)
    assert compare() == 0
    text = "\n".join(shown.lines())
    first, second = text.split("Scripted-Chat (post-trained; weights cccccccc)\n")
    assert SHORT.rstrip() in first and "tokens, eos" in first
    assert "\n".join(line.rstrip() for line in LONG.splitlines()) in second
    assert sum("A short one." in piece for piece in shown.writes) > 1, "it comes in pieces"


def test_colour_is_left_out_where_it_is_not_wanted_and_everything_where_nothing_is_understood(says, on, monkeypatch):
    says("Plain", "Words")
    monkeypatch.setenv("NO_COLOR", "1")
    for columns in (80, 120):
        shown = on(columns)
        assert compare() == 0
        assert "Plain" in shown.getvalue() and not COLOUR.search(shown.getvalue())
    monkeypatch.setenv("TERM", "dumb")
    shown = on(120)
    assert compare() == 0
    assert "Plain" in shown.getvalue() and "\x1b" not in shown.getvalue()


@pytest.mark.parametrize("arguments", [["--json"], []], ids=["json", "plain"])
@pytest.mark.parametrize("columns", [80, 120])
def test_what_a_model_writes_never_steers_the_terminal(columns, arguments, says, on):
    says(WILD, "[red]no markup[/red] :smile:")
    shown = on(columns)
    assert compare(*arguments) == 0
    left = re.sub(r"\x1b\[(\d+(;\d+)*)?[mKA]|\x1b\[\?25[hl]|\r", "", shown.getvalue())
    assert terminal.harmless(left) == left
    for escape in (r"\u001b[31mred\u009b2J", r"\u202eback\u2066wards\u0007", r"\u007f"):
        assert escape in left
    assert "[red]no markup[/red] :smile:" in left
    if arguments:
        assert json.loads(shown.getvalue())["base"]["text"] == WILD


@given(st.text(), st.integers(0, 400), st.integers(4, 12))
def test_rows_hold_the_whole_text_and_what_follows_changes_no_row_but_the_last(text, cut, width):
    found = list(replies.rows(text, width))
    assert "".join(found) == text
    for row in found:
        assert cell_len(row.rstrip(" \n")) <= width and "\n" not in row[:-1]
    before = list(replies.rows(text[:cut], width))
    assert before[: replies._whole(before)] == found[: replies._whole(before)]


def test_a_text_that_changes_behind_itself_is_printed_once_more_as_a_whole():
    """As a byte that fits nowhere makes a tokenizer do with those before it."""
    printer, console = replies._Printer(), SimpleNamespace(file=sys.stdout)
    printer.take(Reply(text="\u0a95"), console)
    assert printer.give(printer.rest) == "\u0a95"
    for text, rest in (("\ufffd\ufffdb", "\n\ufffd\ufffdb"), ("\ufffd\ufffdbc", "c")):
        printer.take(Reply(text=text), console)
        assert printer.give(printer.rest) == rest


def test_progress_is_one_line_that_is_gone_at_the_end_and_lines_where_it_is_kept(monkeypatch, capsys):
    steps = [Progress("Loading A"), *(Progress("Downloading B", i / 100) for i in range(100)), Progress("x" * 500)]
    with terminal.Saying() as say:
        for step in steps:
            say(step)
    kept = capsys.readouterr().err.splitlines()
    assert kept[:3] == ["Loading A", "Downloading B (0%)", "Downloading B (10%)"] and len(kept) == 12
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    with terminal.Saying("lens: ") as say:
        for step in steps:
            say(step)
            assert "\n" not in shown.getvalue()
            assert len(shown.lines()[0]) <= 80 and shown.lines()[0].startswith(f"lens: {step.text[:60]}")
    assert not "".join(shown.lines())


def test_commands_print_through_the_one_place_that_makes_text_harmless():
    for file in Path(cli.__file__).parent.glob("*.py"):
        printed = re.findall(r"(?<![.\w])print\(", file.read_text("utf-8"))
        assert len(printed) == (file.name == "terminal.py"), file.name


@pytest.mark.parametrize(
    "arguments",
    [
        ["replay", f"{WILD}.json"],
        ["diff", f"{WILD}.json", "b.json"],
        ["lens", f"{WILD}.json"],
        ["diff", "a.json", "b.json", f"{WILD}.json"],  # what a shell makes of *.json
        ["compare", "--prompt", "x", f"--{WILD}"],
        ["compare", "--prompt", "x", "--device", WILD],
        ["compare", "--comparison", WILD],
        ["compare", "--base", WILD, "--post", WILD, "--prompt", "x"],
        ["experiment", WILD],
        ["serve", "--auth", WILD],
    ],
    ids=lambda arguments: " ".join(arguments).replace(WILD, "WILD"),
)
def test_no_name_of_a_file_and_nothing_that_was_typed_moves_the_cursor(arguments, on, monkeypatch):
    shown = on(80)
    monkeypatch.setattr(sys, "stderr", shown)
    try:
        assert cli.run(arguments) == 2
    except SystemExit as end:  # argparse's own
        assert end.code == 2
    text = re.sub(r"\x1b\[(1A|2K|\?25[hl])|\r", "", shown.getvalue())  # what clears the line of progress
    assert terminal.harmless(text) == text
    assert "31mred" in text, "it is named all the same"


def test_what_is_logged_does_not_move_the_cursor(monkeypatch):
    shown, logger = Terminal(24), logging.getLogger("core.pool")
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    log.log_harmlessly()
    try:
        raise ValueError(WILD)
    except ValueError:
        logger.exception("loading %s failed", WILD)
    text = shown.getvalue()
    assert text.startswith("core.pool: loading \\u001b[31mred") and "Traceback" in text
    assert terminal.harmless(text) == text


def test_what_a_receipt_says_does_not_move_the_cursor(on, tmp_path):
    """All that is text in it and that a command prints: the pair, names, versions, devices, prompts."""
    odd = {"device": WILD, "versions": {WILD: WILD}, "sampler": "v0"}
    checkpoint = {"name": WILD, "source": WILD, "revision": None, "parameters": 1}
    for number, changes in enumerate(({}, {"engine": values.ENGINE.model_copy(update=odd)})):
        asked = values.COMPARISON.model_copy(update={"pair": WILD, "prompt": f"{number} {WILD}"})
        made = values.receipt(asked, checkpoint=CheckpointInfo(**checkpoint), **changes)
        (tmp_path / f"{number}.json").write_text(receipts.write(made), "utf-8")
    files = [str(tmp_path / f"{number}.json") for number in range(2)]
    for arguments in (["diff", *files], ["replay", files[1]], ["diff", "--json", *files]):
        shown = on(80)
        cli.run(arguments)
        text = shown.getvalue()
        assert "31mred" in text or arguments[0] == "replay"
        assert terminal.harmless(text) == text


# --- in a pipe, and on other consoles -----------------------------------------------------------------------


def test_a_pipe_gets_plain_text_as_it_is_whatever_the_environment_says(says, scripted_pool, capsys, monkeypatch):
    says(WILD, "second")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    assert compare("--today", "2026-01-31") == 0
    counts = [len(scripted_pool.engines[side].ids) for side in SIDES]
    printed = capsys.readouterr().out
    heading, base, post = printed.split("\n\n=== ")
    assert heading == (
        "Pair scripted; seed 77, temperature 0.7, top k 0, top p 1.0, min p 0.0, repetition penalty 1.0, "
        "max new tokens 200; framing document (base) and chat (post-trained); date 2026-01-31."
    )
    assert base == f"Scripted-Base (base; weights bbbbbbbb; {counts[0]} tokens, eos)\n{WILD}"
    assert post == f"Scripted-Chat (post-trained; weights cccccccc; {counts[1]} tokens, eos)\nsecond\n"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_console_that_is_not_utf_8_gets_escapes_and_the_receipt_is_written(encoding, says, monkeypatch, tmp_path):
    says("caf\u00e9 \u65e5\u672c \U0001f600", "plain")
    known = "café" if encoding == "cp1252" else r"caf\u00e9"
    for arguments in ([], ["--json"]):
        file = tmp_path / f"{len(arguments)}.json"
        out = io.TextIOWrapper(io.BytesIO(), encoding, newline="\n")
        monkeypatch.setattr(sys, "stdout", out)
        assert compare("--receipt", str(file), *arguments) == 0
        out.flush()
        printed = out.buffer.getvalue().decode(encoding)
        assert rf"{known} \u65e5\u672c \ud83d\ude00" in printed
        assert receipts.read(file.read_bytes()).base.finish_reason == "eos"
    assert json.loads(printed)["base"]["text"] == "caf\u00e9 \u65e5\u672c \U0001f600"


def test_the_receipt_is_written_though_the_console_is_gone(says, monkeypatch, tmp_path):
    says("one", "two")
    monkeypatch.setattr(command, "say", lambda text: (_ for _ in ()).throw(BrokenPipeError()))
    with pytest.raises(BrokenPipeError):
        compare("--receipt", str(tmp_path / "kept.json"))
    assert receipts.read((tmp_path / "kept.json").read_bytes()).comparison.sampling.seed == 77


# --- Ctrl+C ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [None, 80, 120])
def test_ctrl_c_ends_with_status_130_and_what_was_written_is_printed_and_has_a_receipt(
    columns, says, on, ctrl_c, capsys, tmp_path
):
    says("word " * 2000, "other " * 2000, pause=0.005)
    shown = on(columns) if columns else None
    ctrl_c(1)
    assert compare("--receipt", str(tmp_path / "stopped.json"), "--max-new-tokens", "4000") == 130
    printed = "\n".join(shown.lines()) if shown else capsys.readouterr().out
    for word in ("word", "other"):
        assert 1 < len(re.findall(rf"\b{word}\b", printed)) < 2000
    assert printed.count("tokens, stopped") == 2
    receipt = receipts.read((tmp_path / "stopped.json").read_bytes())
    assert receipt.base.finish_reason == receipt.post.finish_reason == "stopped"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.slow
def test_a_second_ctrl_c_does_not_wait_for_the_replies_to_end(says, ctrl_c, monkeypatch, capsys):
    says("word " * 200, "other " * 200, pause=0.05)
    monkeypatch.setattr(Ticket, "cancel", lambda ticket: None)
    ctrl_c(2)
    began = time.monotonic()
    assert compare() == 130
    assert time.monotonic() - began < 60
    assert "Traceback" not in capsys.readouterr().err


def test_a_job_in_the_background_that_ignores_ctrl_c_goes_on_ignoring_it(ctrl_c):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop = Stop()
    with terminal.stopped_by(stop, signal.SIGINT):
        signal.raise_signal(signal.SIGINT)
    assert not stop.pressed and signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_ctrl_c_while_models_are_loaded_waits_for_no_download(says, scripted_pool, monkeypatch):
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(sys, "argv", ["app.py", "compare", "--prompt", "Hello"])
    monkeypatch.setattr(scripted_pool, "wait", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
    app.main()
    assert ended == [130]


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_in_an_experiment_prints_what_was_found_before_and_what_it_had_of_that(
    says, scripted_pool, monkeypatch, capsys, ctrl_c, times
):
    found = []

    def perform(chosen, *others):
        found.append(chosen.name)
        if len(found) == 2:
            raise UserError("no.")
        if len(found) == 3:
            for _ in range(times):  # the second one is not waited for
                signal.raise_signal(signal.SIGINT)
        outcome = "held" if len(found) == 1 else "stopped early"
        return SimpleNamespace(
            experiment=chosen.name, seconds=1.0, finding=SimpleNamespace(outcome=outcome, sentence="So.")
        )

    monkeypatch.setattr(experiment, "Pool", lambda settings, hub: contextlib.nullcontext(scripted_pool))
    monkeypatch.setattr(experiment, "_perform", perform)
    assert app.main(["experiment", "all"]) == 130
    printed = capsys.readouterr()
    assert f"{EXPERIMENTS[0].name}" in printed.out and "So." in printed.out and len(found) == 3
    assert ("stopped early" in printed.out) == (times == 1)
    assert printed.err == f"{EXPERIMENTS[1].name} could not be run: no.\n"
