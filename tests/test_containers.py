"""The containers, as far as they can be read without an engine: they install and start what the test of the wheel tries."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.test_house import PROJECT, ROOT

BUILD = "pip wheel --no-deps --wheel-dir dist ."
INSTALL = "pip install --no-deps dist/same_seed-*.whl"


def instructions(file: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, each with its words, continued lines as one."""
    text = (ROOT / file).read_text("utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(name, words) for name, _, words in (line.partition(" ") for line in lines)]


def commands(file: str, name: str) -> list[list[str]]:
    """The JSON lists of words that an instruction starts."""
    return [json.loads(words[words.index("[") :]) for each, words in instructions(file) if each == name]


@pytest.mark.parametrize("file", ["Dockerfile", "Dockerfile.cuda"])
def test_a_container_installs_and_starts_what_is_tried_here(file):
    runs = [words for name, words in instructions(file) if name == "RUN"]
    locked, torch = "pip install --require-hashes --no-deps --only-binary :all: -r locks/run.txt", runs[2]
    assert runs[:2] == [BUILD, locked] and runs[3] == INSTALL
    assert torch.startswith("pip install ") and torch.endswith(" -r locks/torch.txt")
    assert commands(file, "ENTRYPOINT") == [["same-seed"]]
    python = {words for name, words in instructions(file) if name == "FROM"}
    assert python == {"python:3.12-slim AS build", "python:3.12-slim"}


@pytest.mark.parametrize("file", ["Dockerfile", "Dockerfile.cuda"])
def test_a_container_writes_as_nobody_in_particular_and_only_into_its_cache(file):
    given = instructions(file)
    names = [name for name, _ in given]
    assert ("USER", "10001") in given and names.index("USER") > max(i for i, name in enumerate(names) if name == "RUN")
    assert ("VOLUME", "/cache") in given and any("HF_HOME=/cache" in words for name, words in given if name == "ENV")
    page = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))["services"]["page"]
    assert page["read_only"] and page["tmpfs"] == ["/tmp"] and page["volumes"] == ["cache:/cache"]
    assert page["cap_drop"] == ["ALL"] and "ports" not in page, "only the proxy reaches it"


def test_the_two_dockerfiles_differ_only_in_torch():
    different = set(instructions("Dockerfile")) ^ set(instructions("Dockerfile.cuda"))
    assert all("torch" in words.lower() or "NVIDIA" in words for _, words in different)


def test_what_is_sent_to_the_builder_is_what_the_wheel_is_made_of():
    lines = [line for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if not line.startswith("#")]
    assert lines[0] == "*" and lines[-2:] == ["checkpoints/recipe", "**/__pycache__"]
    made_of = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
    locks = ["locks/run.txt", "locks/torch.txt"]
    needed = {*made_of, *PROJECT["project"]["license-files"], "pyproject.toml", "requirements.txt", *locks}
    assert {line[1:] for line in lines[1:-2]} == {each for each in needed if each != "checkpoints/LICENSE.md"}


@pytest.mark.slow  # not everywhere, as `make check` is
@pytest.mark.parametrize("file", ["Dockerfile", "Dockerfile.cuda"])
def test_hadolint_finds_nothing(file):
    command = [Path(sys.executable).parent / "hadolint", ROOT / file]
    linted = subprocess.run(command, capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stdout + linted.stderr
