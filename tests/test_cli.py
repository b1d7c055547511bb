"""The command line: what it prints, that it gives the page's replies in another process, and one sentence for a mistake."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path

import httpx
import pytest

import app
from core import cli, installation
from core.cli import compare as command
from core.hub import HuggingFaceHub
from core.pool import Pool
from core.prompts import digest
from core.run import compare
from core.settings import Settings
from core.types import DEFAULT_SAMPLING, SIDES, Comparison
from tests import tiny
from tests.ports import free_port

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> list[str]:
    """Flags for a pair of tiny models."""
    base, post = tiny.save_pair(tmp_path_factory.mktemp("pair"))
    return ["--base", str(base), "--post", str(post), "--device", "cpu", "--dtype", "float32", "--slots", "1"]


@pytest.fixture(scope="module")
def own_pool(own) -> Iterator[Pool]:
    """A pool that keeps the pair of tiny models."""
    settings = Settings.read(cli.parse(["compare", "--prompt", "x", *own]), {})
    with Pool(settings, HuggingFaceHub()) as pool:
        yield pool


@pytest.fixture
def kept(own_pool, monkeypatch) -> None:
    """`compare` finds the pair of tiny models in memory."""
    monkeypatch.setattr(command, "Pool", lambda settings, hub: nullcontext(own_pool))


def run_json(capsys, *arguments: str) -> dict:
    assert app.main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


# --- compare -----------------------------------------------------------------------------------------


def test_compare_prints_both_replies_for_people(own, capsys):
    """From loading to the end, as it runs in a pipe."""
    assert app.main(["compare", *own, "--prompt", "The quick", "--max-new-tokens", "7", "--temperature", "0"]) == 0
    printed = capsys.readouterr()
    for name, kind in (("tiny-base", "base"), ("tiny-chat", "post-trained")):
        assert f"=== {name} ({kind}; weights " in printed.out
    assert printed.out.count("7 tokens, length)\n") == 2
    assert "Loading" not in printed.out and "Checking" not in printed.out, "progress does not mix with the replies"
    assert "tiny-base" in printed.err and str(Path(own[1]).parent) not in printed.err, "it names no path"


def test_json_holds_the_comparison_and_all_of_both_replies(kept, capsys, tmp_path, monkeypatch):
    """The prompt from standard input, a history from a file, and every setting from a flag."""
    history = tmp_path / "history.json"
    history.write_text(json.dumps([{"prompt": "One?", "base": "BASE REPLY", "post": "POST REPLY"}]), "utf-8")
    monkeypatch.setattr(sys, "stdin", io.StringIO("Caf\u00e9 <|im_end|>?\n"))
    flags = (
        "--seed 9 --temperature 1.25 --top-k 50 --top-p 0.9 --min-p 0.01 --repetition-penalty 1.1 --max-new-tokens 5"
    )
    framings = "--framing-base transcript --framing-post chat --today 2026-01-31"
    answer = run_json(
        capsys, "compare", "--prompt", "-", "--system", "Be brief.", "--history", str(history), *flags.split(), *framings.split()
    )  # fmt: skip
    asked = answer["comparison"]
    assert asked["prompt"] == "Caf\u00e9 <|im_end|>?\n"
    assert asked["conversation"]["system"] == "Be brief."
    assert asked["sampling"] == {
        "seed": 9, "temperature": 1.25, "top_k": 50, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.1, "max_new_tokens": 5,
    }  # fmt: skip
    assert (asked["framing_base"], asked["framing_post"], asked["today"]) == ("transcript", "chat", "2026-01-31")
    for side in SIDES:
        replied = answer[side]
        assert replied["text"] is not None and replied["finish_reason"] in ("eos", "length")
        assert 1 <= len(replied["token_ids"]) <= 5
        assert replied["prompt_sha256"] == digest(replied["prompt_token_ids"])
        assert len(replied["weights_sha256"]) == 64
    assert answer["base"]["prompt_text"].endswith("User: Caf\u00e9 <|im_end|>?\n\nAssistant:")
    assert "BASE REPLY" in answer["base"]["prompt_text"] and "POST REPLY" in answer["post"]["prompt_text"]


def test_a_history_may_hold_reasoning_and_what_becomes_of_it_is_said(kept, capsys, tmp_path):
    turn = {"prompt": "One?", "base": "B", "post": "P", "reasoning_post": "Let me see."}
    file = tmp_path / "history.json"
    file.write_text(json.dumps([turn]), "utf-8")
    arguments = ["compare", "--prompt", "Two?", "--history", str(file), "--max-new-tokens", "1", "--json"]
    assert app.main(arguments) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["comparison"]["conversation"]["turns"] == [turn]
    assert "This chat template leaves out the reasoning of earlier replies." in printed.err


def test_a_history_can_be_a_whole_conversation(kept, capsys, tmp_path):
    file = tmp_path / "history.json"
    file.write_text(json.dumps({"system": "Be kind.", "turns": [{"prompt": "A", "base": "B", "post": "C"}]}), "utf-8")
    short = ["--max-new-tokens", "1", "--history", str(file)]
    kept = run_json(capsys, "compare", "--prompt", "D", *short)
    assert kept["comparison"]["conversation"]["system"] == "Be kind."
    other = run_json(capsys, "compare", "--prompt", "D", *short, "--system", "Be brief.")
    assert other["comparison"]["conversation"]["system"] == "Be brief.", "the flag wins"


@pytest.mark.slow
def test_a_new_process_gives_the_replies_of_this_one(own, own_pool):
    """Loaded twice, `compare` answers as a pool here does, bit for bit, on a console that knows few characters, too."""
    sampling = DEFAULT_SAMPLING.model_copy(update={"seed": 42, "max_new_tokens": 40})
    asked = Comparison(pair=own_pool.default.id, prompt="The se\u00e4 is", sampling=sampling, today="2026-01-31")
    with own_pool.wait(asked.pair) as lease:
        here = compare(lease, asked)
    command = [
        "compare",
        *own,
        "--prompt",
        "-",
        "--seed",
        "42",
        "--max-new-tokens",
        "40",
        "--today",
        "2026-01-31",
        "--json",
    ]
    there = subprocess.run(
        [sys.executable, "app.py", *command], input=asked.prompt, capture_output=True, encoding="latin-1", check=True, cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
    )  # fmt: skip
    answer = json.loads(there.stdout)
    for side in SIDES:
        assert tuple(answer[side]["token_ids"]) == here.side(side).token_ids
        assert tuple(answer[side]["logprobs"]) == here.side(side).logprobs
        assert answer[side]["text"] == here.side(side).text
        assert answer[side]["weights_sha256"] == here.side(side).weights_sha256


@pytest.mark.slow
def test_ctrl_c_on_a_real_terminal_ends_the_process_at_once_and_leaves_the_terminal_as_it_was():
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "app.py", "compare", "--prompt", "Hello"], cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs,
        env={**os.environ, "TERM": "xterm"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509 - see below
    )  # fmt: skip
    os.close(theirs)
    printed = b""
    while b"Llama-Same-Seed" not in printed:  # of a progress that lasts seconds
        printed += os.read(ours, 4096)
    process.send_signal(signal.SIGINT)
    with suppress(OSError):  # the terminal is gone with the process
        while more := os.read(ours, 4096):
            printed += more
    os.close(ours)
    assert process.wait(60) == 130
    assert b"Traceback" not in printed and b"===" not in printed
    assert printed.count(b"\x1b[?25l") == printed.count(b"\x1b[?25h") == 1, "the cursor is there again"


# --- mistakes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--temperature", "3"], "temperature: input should be less than or equal to 2."),
        (["--temperature", "nan"], "temperature: input should be a finite number."),
        (["--seed", "-1"], "seed: input should be greater than or equal to 0."),
        (["--max-new-tokens", "0"], "max_new_tokens: input should be greater than or equal to 1."),
        (["--today", "tomorrow"], "today: "),
        (["--pair", "nobody"], "There is no pair 'nobody' here; `python app.py pairs` lists them"),
        (["--history", "nowhere.json"], "--history takes a JSON file with a list of"),
        (["--history", "README.md"], "--history takes a JSON file with a list of"),
        (["--history", "docs/schemas/receipt.schema.json"], "--history: "),
        (["--base", "nowhere/at/all"], "--base and --post go together"),
        (["--base", "docs", "--post", "./no//where"], "There is no folder './no//where' on this machine"),
        (["--base", "", "--post", ""], "--base and --post each name a model"),
        (["--base", ".", "--post", "./docs"], f"{ROOT.name} has no config.json"),
        (["--slots", "0"], "--slots must be 1 or more."),
        (["--prompt", " \n"], "The prompt is empty; write what both models shall be sent."),
        (["--pair", "smollm2-135m"], "is not on this machine and the Hub cannot be reached"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(arguments, sentence, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert app.main(["compare", "--prompt", "Hello", *arguments]) == 2
    printed = capsys.readouterr()
    *progress, said = printed.err.strip().splitlines()
    assert sentence in said and said.endswith(".")
    assert all(line.startswith("Looking for ") for line in progress)
    assert printed.out == ""


def test_a_prompt_that_does_not_fit_is_refused_with_the_numbers(kept, capsys):
    assert app.main(["compare", "--prompt", "word " * 400]) == 2
    assert "and its context holds 256; start a new chat" in capsys.readouterr().err


def test_a_checkout_is_no_installation_and_starts_itself_by_its_own_file():
    assert not installation.INSTALLED and installation.DATA == ROOT
    assert installation.new_process() == [sys.executable, str(ROOT / "app.py")]


def test_an_unknown_flag_or_command_is_refused_with_the_usage(capsys):
    for arguments in (["compare"], ["--no-such-flag"], ["compare", "--prompt", "x", "--seed", "many"]):
        with pytest.raises(SystemExit) as ended:
            app.main(arguments)
        assert ended.value.code == 2
        assert "usage: python app.py" in capsys.readouterr().err


# --- help ----------------------------------------------------------------------------------------------


def help_of(capsys, name: str) -> str:
    with pytest.raises(SystemExit) as ended:
        app.main([name, "--help"])
    assert ended.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_the_help_of_a_command_has_its_own_flags_alone_and_their_defaults(capsys):
    helps = {name: help_of(capsys, name) for name in cli.COMMANDS}
    for name, value in DEFAULT_SAMPLING:
        _, _, told = helps["compare"].rpartition(f" --{name.replace('_', '-')} ")
        assert f"(default: {value})" in told.partition(" --")[0]
    for framing in ("framing-base", "framing-post"):
        default = Comparison.model_fields[framing.replace("-", "_")].default
        assert f"(default: {default})" in helps["compare"].rpartition(f" --{framing} ")[2].partition(" --")[0]
    for flag, having in {
        "--port": {"serve"},
        "--device": {"serve", "compare", "replay", "lens", "experiment", "study", "fingerprint"},
        "--cluster": {"serve"},
        "--base": set(cli.COMMANDS),
        "--csv": {"lens"},
    }.items():
        assert {name for name, told in helps.items() if f"{flag} " in told} == having
    assert "(default: GRADIO_SERVER_PORT, else 7860)" in helps["serve"]


# --- pairs and serve -----------------------------------------------------------------------------------


def test_pairs_lists_what_can_be_asked_and_loads_nothing(own, capsys):
    assert app.main(["pairs"]) == 0
    assert "embedded" in capsys.readouterr().out
    first, *rows = run_json(capsys, "pairs", *own[:4])
    assert first["title"] == "tiny-base and tiny-chat"
    assert "qwen3-8b" in [row["id"] for row in rows]


def test_serving_is_the_default_and_its_settings_reach_the_server(own, tmp_path, monkeypatch):
    from core.cli import serve
    from core.ui import page

    served = []
    monkeypatch.setattr(page, "build", lambda pool, *lesson: pool.default.title)
    monkeypatch.setattr(page, "launch", lambda demo, settings, **options: served.append((demo, settings)))
    monkeypatch.setattr(page, "end", lambda demo, pool, grace: pool.close())
    monkeypatch.setattr(serve, "sleep", lambda seconds: signal.raise_signal(signal.SIGTERM))
    auth = tmp_path / "auth"
    auth.write_text("ada:secret\n", "utf-8")
    assert app.main([*own, "--host", "0.0.0.0", "--port", "7999", "--share", "--auth", str(auth)]) == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    ((demo, settings),) = served
    assert demo == "tiny-base and tiny-chat"
    assert (settings.host, settings.port, settings.share) == ("0.0.0.0", 7999, True)
    assert settings.auth == (("ada", "secret"),)


@pytest.mark.slow
@pytest.mark.parametrize("ended_by", [signal.SIGINT, signal.SIGTERM])
def test_the_server_runs_as_in_a_space_and_lets_in_only_who_may(ended_by, own):
    """`python app.py` with its address, path prefix and passwords from the environment, as a Space starts it."""
    port = free_port()
    environment = {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(port), "SAME_SEED_AUTH": "ada:secret", "GRADIO_ROOT_PATH": "/seed"}  # fmt: skip
    server = subprocess.Popen(
        [sys.executable, "app.py", *own], cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - a runner in the background has its children ignore it
    )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        assert answers(url, server)
        assert httpx.head(url).status_code == 200
        assert httpx.get(f"{url}/config").status_code == 401
        assert httpx.post(f"{url}/login", data={"username": "ada", "password": "wrong"}).status_code == 400
        with httpx.Client() as visitor:
            assert visitor.post(f"{url}/login", data={"username": "ada", "password": "secret"}).status_code == 200
            assert visitor.get(f"{url}/config").json()["root"].endswith("/seed")
    finally:
        server.send_signal(ended_by)
        printed, _ = server.communicate(timeout=60)
    assert "Traceback" not in printed and server.returncode == 128 + ended_by


@pytest.mark.parametrize("arguments", [["compare", "--help"], ["pairs"]], ids=" ".join)
def test_whoever_reads_no_further_ends_it_without_a_traceback(arguments):
    process = subprocess.Popen(
        [sys.executable, "app.py", *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait() == 128 + 13


def answers(url: str, server: subprocess.Popen) -> bool:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        try:
            return httpx.get(url).status_code == 200
        except httpx.TransportError:
            time.sleep(0.2)
    return False
