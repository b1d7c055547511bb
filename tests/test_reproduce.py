"""Code for a turn: each of the three languages, run, asks exactly what the turn asked, whatever was written in it."""

import ast
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import canonical, cli, reproduce
from core.cli import compare as command
from core.errors import UserError
from core.installation import COMMAND
from core.pairs import default_pair
from core.reproduce import ADDRESS, code
from core.settings import Settings
from core.types import Comparison, Dial, Record, Sampling, Turn
from tests import values
from tests.scripted import ScriptedPool

NASTY = "It's $(touch x) `y` \"q\" \\ \n!! %s {} EVENT\nJSON\n\x1b[201~\x07\u202e caf\u00e9 \U0001f469\u200d\U0001f680 --- '"


def chat_of(*comparisons: Comparison) -> tuple[Record, ...]:
    """A chat of turns that were run with these settings; each one's history is the turns before it."""
    kept = (values.side_receipt(1, 2), values.side_receipt(3))
    return tuple(Record.of(each, Turn(prompt=each.prompt, base=f"{i} b", post=NASTY), *kept) for i, each in enumerate(comparisons))  # fmt: skip


def changed(**changes) -> Comparison:
    return values.COMPARISON.model_copy(update=changes)


PLAIN = changed(prompt="What is the capital of France?")
ODD = changed(
    prompt="-f 'x'\n$HOME",
    sampling=Sampling(seed=2**53 - 1, temperature=0, top_k=7, top_p=0.9, min_p=1e-05, repetition_penalty=1.1, max_new_tokens=3),
    framing_base="transcript",
    framing_post="document",
)  # fmt: skip
BEGUN = changed(prompt=NASTY, prefill_base=(40, 41), prefill_post=(42,))
CHATS = {"one turn": chat_of(PLAIN), "odd settings": chat_of(ODD), "history and given tokens": chat_of(PLAIN, BEGUN)}


@pytest.fixture(params=CHATS)
def chat(request) -> tuple[Record, ...]:
    return CHATS[request.param]


def asked(chat: tuple[Record, ...]) -> Comparison:
    return chat[-1].comparison(chat[:-1])


def in_a_shell(script: str, *, functions: str = "") -> str:
    ran = subprocess.run(["sh", "-c", f"{functions}\n{script}"], capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL, env={**os.environ, "PY": sys.executable})  # fmt: skip
    return ran.stdout


# --- run ---------------------------------------------------------------------------------------------------


def test_the_command_runs_the_same_comparison(chat, monkeypatch, capsys):
    """A real shell reads the command; what it hands to `python app.py` is run here, on models that say one thing."""
    hand_over = 'python() { "$PY" -c "import json, sys; print(json.dumps([sys.argv[1:], sys.stdin.read()]))" "$@"; }'
    (program, *arguments), standard_input = json.loads(
        in_a_shell(code(chat, len(chat) - 1).command, functions=hand_over)
    )
    assert f"python {program}" == COMMAND
    pool = ScriptedPool("a base reply", "a post-trained reply")

    def opened(settings, hub):
        return nullcontext(SimpleNamespace(default=default_pair(settings), wait=pool.wait))

    monkeypatch.setattr(command, "Pool", opened)
    monkeypatch.setattr(sys, "stdin", io.StringIO(standard_input))
    assert cli.run([*arguments, "--json"]) == 0
    assert Comparison.model_validate(json.loads(capsys.readouterr().out)["comparison"]) == asked(chat)


@pytest.mark.slow
def test_the_python_code_runs_the_same_comparison(chat, scripted):
    url = scripted("a base reply", "a post-trained reply")
    names: dict = {}
    exec(code(chat, len(chat) - 1, url).python, names)
    names["client"].close()
    assert Comparison.model_validate(names["answer"]["comparison"]) == asked(chat)
    assert names["answer"]["post"]["text"].endswith("a post-trained reply")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_the_http_call_runs_the_same_comparison(chat, scripted):
    url = scripted("a base reply", "a post-trained reply")
    said = in_a_shell(code(chat, len(chat) - 1, f"{url}/").http)
    *_, last = said.strip().split("\n\n")
    event, data = last.splitlines()
    assert event == "event: complete"
    [answer] = json.loads(data.removeprefix("data: "))
    assert Comparison.model_validate(answer["comparison"]) == asked(chat)


# --- said ---------------------------------------------------------------------------------------------------


def test_the_command_names_only_what_differs_from_the_defaults():
    assert code(chat_of(PLAIN), 0).command == (
        f"{COMMAND} compare --prompt 'What is the capital of France?' --today 2026-01-02"
    )
    assert "--temperature 0.0 --top-k 7" in code(chat_of(ODD), 0).command
    switched = changed(prompt="Hi", pair="qwen3-0.6b", chat_template_kwargs={"enable_thinking": False})
    assert """--pair qwen3-0.6b --prompt Hi --chat-template-kwargs '{"enable_thinking":false}' --today""" in code(chat_of(switched), 0).command  # fmt: skip
    own = code(chat_of(changed(pair="tiny-base | tiny-chat", prompt="Hi")), 0).command
    assert "compare --base tiny-base --post tiny-chat --prompt Hi" in own


def test_what_a_terminal_could_obey_stands_nowhere_in_the_code():
    """A stranger's prompt that ends the paste in a terminal, or hides behind a change of direction."""
    for text in (chat_of(changed(prompt=NASTY)), CHATS["history and given tokens"]):
        for written in code(text, len(text) - 1).model_dump().values():
            assert all(each.isprintable() or each == "\n" for each in written)


def test_a_turn_that_came_with_a_link_has_no_code():
    theirs = values.record("One").model_copy(update={"base": None, "post": None})
    with pytest.raises(UserError, match="Turn 1 came with a link"):
        code((theirs, values.record("Two")), 0)
    assert "--comparison -" in code((theirs, values.record("Two")), 1).command
    assert code((values.record("One", failed="post"),), 0).python


ANY = st.builds(
    lambda comparison, **changes: comparison.model_copy(update=changes),
    values.COMPARISONS,
    pair=st.sampled_from(["embedded", "qwen3-0.6b", "owner/a | owner/b@main"]),
    prefill_post=st.lists(st.integers(0, 200_000), max_size=2).map(tuple),
    dial=st.one_of(st.none(), st.builds(Dial, amount=st.floats(0, 1.5))),
    chat_template_kwargs=st.one_of(st.just({}), st.just({"a": True, "b": 1.5, "c": "x'y"})),
)


@settings(deadline=None, max_examples=80)
@given(ANY)
def test_any_comparison_is_the_same_in_all_three(comparison):
    turns = comparison.conversation.turns
    before = tuple(Record.of(comparison, turn, None, None) for turn in turns)
    last = chat_of(comparison)[0]
    made = code((*before, last), len(turns))
    python = next(node for node in ast.parse(made.python).body if isinstance(node, ast.Assign))
    assert Comparison.model_validate(ast.literal_eval(python.value)) == comparison
    _, body = made.http.split("\n", 1)
    assert Comparison.model_validate(json.loads(body.removesuffix("\nJSON"))["data"][0]) == comparison
    assert of_command(made.command) == comparison


def of_command(text: str) -> Comparison:
    line, document = text, ""
    if " --comparison - <<'JSON'\n" in text:
        line, document = text.removesuffix("\nJSON").split(" <<'JSON'\n", 1)
    flags = cli.parse(shlex.split(line)[2:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.StringIO(document))
        read = Settings.read(flags, {})
        return command._comparison(flags, default_pair(read).id)


def test_a_prompt_that_no_command_line_holds_goes_by_standard_input():
    for prompt in ("-", "x" * (reproduce._LONGEST_WORD + 1)):
        comparison = changed(prompt=prompt)
        made = code(chat_of(comparison), 0).command
        assert "--comparison -" in made and of_command(made) == comparison


# --- a comparison from a file ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "flags", "sentence"),
    [
        (canonical.text(canonical.dump(PLAIN)), ["--seed", "1"], "--comparison holds everything that is asked; leave out --seed."),
        (canonical.text(canonical.dump(PLAIN)), ["--framing-base", "document"], "leave out --framing-base."),
        ('{"pair": "embedded"}', [], "--comparison: prompt: field required."),
        ("{", [], "This comparison is damaged"),
        (canonical.text(canonical.dump(PLAIN)).replace("1234", "1.7"), [], "--comparison: sampling.seed: use a whole number."),
        (None, [], "cannot be read"),
    ],
)  # fmt: skip
def test_a_file_that_holds_no_comparison_is_one_sentence(text, flags, sentence, tmp_path, capsys):
    file = tmp_path / "asked.json"
    if text is not None:
        file.write_text(text, "utf-8")
    assert cli.run(["compare", "--comparison", str(file), *flags]) == 2
    assert sentence in capsys.readouterr().err


def test_a_comparison_from_a_file_runs_on_its_own_pair_unless_another_is_named(tmp_path):
    file = tmp_path / "asked.json"
    file.write_text(canonical.text(canonical.dump(changed(pair="qwen3-8b"))), "utf-8")
    for flags, pair in (([], "qwen3-8b"), (["--pair", "qwen3-0.6b"], "qwen3-0.6b")):
        parsed = cli.parse(["compare", "--comparison", str(file), *flags])
        assert command._comparison(parsed, flags[-1] if flags else "embedded").pair == pair


def test_the_code_asks_the_address_of_the_page():
    made = code(chat_of(PLAIN), 0)
    assert f"Client({ADDRESS!r})" in made.python and f"{ADDRESS}/gradio_api/call/compare" in made.http
    made = code(chat_of(PLAIN), 0, "https://example.org/same/seed/")
    assert "curl -sS https://example.org/same/seed/gradio_api/call/compare -H" in made.http
