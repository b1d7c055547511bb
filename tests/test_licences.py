"""What others may do with this: the licence of the code, that of the weights with their sources, and those of the packages."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from core.pairs import known_pairs
from core.settings import Settings
from tools import third_party

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
WEIGHTS = (ROOT / "checkpoints" / "LICENSE.md").read_text("utf-8")
SOURCES = tomllib.loads((ROOT / "checkpoints" / "recipe" / "sources.toml").read_text("utf-8"))
MODELS = sorted(path.parent for path in (ROOT / "checkpoints").glob("*/model.safetensors"))


def test_the_code_is_under_the_apache_license():
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert yaml.safe_load(README.split("---\n", 2)[1])["license"] == "apache-2.0"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["license"] == "Apache-2.0 AND LicenseRef-Same-Seed-Weights", "the wheel has the weights too"
    assert {"LICENSE", "checkpoints/LICENSE.md"} <= set(project["license-files"])


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_of_the_weights_stands_beside_them_with_its_licence(source):
    row = SOURCES[source]
    [line] = [line for line in WEIGHTS.splitlines() if line.startswith(f"| [{row['title']}]")]
    assert line.endswith(f" | {row['licence']} |")
    for address in row["url"].split(", "):
        assert f"({address})" in line
    for commit in row["commit"].split(", "):
        assert f"`{commit[:12]}`" in line


def test_no_source_is_named_that_the_recipe_does_not_read():
    rows = [line for line in WEIGHTS.splitlines() if line.startswith("| [")]
    assert len(rows) == len(SOURCES)


def test_what_learned_from_text_of_llama_says_so_and_is_named_after_it():
    assert MODELS
    for model in MODELS:
        assert model.name.startswith("Llama")
        assert model.name in WEIGHTS
        assert "\nBuilt with Llama.\n" in (model / "README.md").read_text("utf-8")
    assert "Built with Llama" in README
    assert "\nBuilt with Llama.\n" in WEIGHTS


def test_the_packages_that_are_asked_for_are_listed_with_the_licence_that_they_state():
    listed = dict(re.findall(r"^\| ([\w-]+) \| ([^|]+) \|", third_party.PAGE.read_text("utf-8"), re.MULTILINE))
    asked = [name for name, by in third_party.wanted(third_party.requirements()).items() if by == "requirements.txt"]
    assert asked, "requirements.txt names packages"
    for name in asked:
        assert listed.get(name) == third_party.licence(name), f"run python -m tools.third_party: {name} differs"


def test_a_package_that_states_no_licence_is_told_as_such():
    assert "not stated" not in third_party.PAGE.read_text("utf-8"), "find out before it is used"


def test_the_space_links_every_model_of_the_hub_that_it_offers():
    offered = {spec for pair in known_pairs(Settings()) for spec in (pair.base, pair.post) if "/" in spec}
    assert set(yaml.safe_load(README.split("---\n", 2)[1])["models"]) == offered
