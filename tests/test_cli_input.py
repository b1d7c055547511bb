"""What the command line is given and cannot use: one sentence, status 2, and no answer is lost."""

import io
import sys
from contextlib import nullcontext

import pytest

import app
from core import cli
from core.cli import compare
from core.errors import UserError
from core.settings import Settings
from tests.scripted import ScriptedPool


def said(capsys, *arguments: str) -> str:
    """The last line that a refused command prints."""
    assert app.main([*arguments]) == 2
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    return printed.err.strip().splitlines()[-1]


def test_half_a_surrogate_pair_is_not_text(capsys):
    """What Python makes of the byte ff in an argument."""
    for flag in ("--system", "--prompt"):
        arguments = {"--prompt": "Hello", "--system": "", flag: "\udcff"}
        line = said(capsys, "compare", *(part for pair in arguments.items() for part in pair))
        assert "it holds half of a surrogate pair, which is not text; remove it." in line


def test_standard_input_that_is_no_text_is_a_sentence(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9"), "utf-8"))
    line = said(capsys, "compare", "--prompt", "-")
    assert line == "Standard input is not utf-8 text; send the prompt in this encoding."


def test_a_history_that_is_nested_too_deeply_is_a_sentence(capsys, tmp_path):
    file = tmp_path / "deep.json"
    file.write_text("[" * 200_000 + "]" * 200_000, "utf-8")
    line = said(capsys, "compare", "--prompt", "Hello", "--history", str(file))
    assert line.startswith("--history takes a JSON file with a list of")


def test_a_receipt_that_cannot_be_written_does_not_take_the_answer_with_it(capsys, monkeypatch, tmp_path):
    """And its path is named as it was typed."""
    monkeypatch.setattr(compare, "Pool", lambda settings, hub: nullcontext(ScriptedPool("one", "two")))
    monkeypatch.chdir(tmp_path)
    assert app.main(["compare", "--prompt", "The quick", "--receipt", "./no//folder.json"]) == 2
    printed = capsys.readouterr()
    assert printed.out.count("=== Scripted-") == 2
    assert printed.err == "'./no//folder.json' cannot be written: No such file or directory.\n"


@pytest.mark.parametrize("port", ["\u00b2", "\u0665", "", "-1", "http"])
def test_a_port_is_a_number_in_ascii(port):
    flags = cli.parse(["pairs"])
    with pytest.raises(UserError, match=r"GRADIO_SERVER_PORT must be a number\."):
        Settings.read(flags, {"GRADIO_SERVER_PORT": port})
