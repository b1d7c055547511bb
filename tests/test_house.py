"""The house itself: what the README promises exists, imports run downward, and nothing is loaded too early."""

import ast
import datetime
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import yaml

from core import __version__, cli
from core.engine import sampling
from core.settings import Settings
from tests.engines import FAMILIES, LAYERED

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
CHANGELOG = (ROOT / "CHANGELOG.md").read_text("utf-8")
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def tracked() -> list[Path]:
    """Every file that a clone has, whatever else lies in this folder (environments, notes, what was built)."""
    try:
        command = ["git", "ls-files", "-z"]
        names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this folder is no clone, so nothing says which files belong to it")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


# --- commands ------------------------------------------------------------------------------------------


def test_the_commands_of_the_readme_are_in_the_makefile():
    commands = re.findall(r"^    make (\w+)", README, re.MULTILINE)
    assert {"run", "test"} <= set(commands)
    for command in commands:
        assert re.search(rf"^{command}:", MAKEFILE, re.MULTILINE), f"make {command} is not in the Makefile"


def test_ci_runs_exactly_what_the_readme_tells_people_to_run():
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    lines = [line for line in script.splitlines() if line and not line.startswith("#")]
    assert lines == ["set -e", 'cd "$(dirname "$0")/.."', "exec make test"]
    assert "\n    make test\n" in README
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111, "it can be executed"


def recipe_of(target: str) -> list[str]:
    """What a target of the Makefile needs and runs."""
    [(needs, body)] = re.findall(rf"^{target}:(.*)\n((?:\t.*\n)*)", MAKEFILE, re.MULTILINE)
    return [*needs.split(), *(line.strip().replace("$(BIN)/", "") for line in body.splitlines())]


def test_make_check_is_make_test_without_what_takes_long_or_needs_a_browser():
    *before, both, others = recipe_of("test")
    *quick, few = recipe_of("check")
    assert "browser" in before and both == "$(MAKE) --jobs 2 style measured" and quick == ["style"]
    assert recipe_of("style")[1:] == ["ruff check .", "ruff format --check .", "mypy", "lint-imports"]
    assert few == "$(PYTEST) $(QUICK) $(TESTS)"
    assert recipe_of("measured")[-1] == "$(PYTEST) $(if $(TESTS),$(TESTS),$(QUICK) --cov)"
    assert others == '$(if $(TESTS),,$(PYTEST) -m "browser or slow")'
    assert '\nQUICK := -m "not browser and not slow"\n' in MAKEFILE, "what the other call leaves out"


def test_no_command_asks_for_rights_that_it_does_not_have():
    assert "sudo" not in MAKEFILE


def test_the_hosts_workflows_run_exactly_what_people_run():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text("utf-8"))["jobs"]
    runs = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in jobs.items()}
    assert runs == {"test": ["make test"], "check": ["make check"]}
    assert {"macos-latest", "windows-latest"} <= set(jobs["check"]["strategy"]["matrix"]["os"])


def test_what_the_hosts_workflow_publishes_is_what_make_docs_builds():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "docs.yml").read_text("utf-8"))["jobs"]
    assert [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step] == ["make docs"]
    [published] = [
        step["with"]["path"] for step in jobs["build"]["steps"] if "upload-pages-artifact" in step.get("uses", "")
    ]
    assert f"\nsite_dir: {published}\n" in (ROOT / "mkdocs.yml").read_text("utf-8")
    assert recipe_of("docs")[-1].endswith(" mkdocs build --strict")


def test_pre_commit_checks_the_style_that_ci_checks():
    [local] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
    hooks = [hook["entry"].removeprefix(".venv/bin/").removesuffix(" --force-exclude") for hook in local["hooks"]]
    assert local["repo"] == "local"
    assert hooks == [line.removesuffix(" .") for line in recipe_of("style") if line.startswith("ruff")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_flags_that_are_written_down_exist(page):
    """Every `python app.py ...` of the documentation is understood by the program."""
    lines = re.findall(r"^    python app\.py ?(.*)$", page.read_text("utf-8"), re.MULTILINE)
    for line in lines:
        words = re.findall(r'"[^"]*"|\S+', line.split(" < ")[0].split("   ")[0])
        arguments = [word.strip('"') for word in words]
        cli.parse(arguments)  # SystemExit fails the test


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_named_files_exist(page):
    text = page.read_text("utf-8")
    for link in re.findall(r"\]\(([^)#]+)", text):
        assert link.startswith("http") or (page.parent / link).exists(), link
    for name in re.findall(r"`((?:core|tests|checkpoints|benchmarks|docs)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), name


# --- a valid Space ---------------------------------------------------------------------------------------


def test_the_readme_begins_as_a_space_wants_it():
    _, matter, _ = README.split("---\n", 2)
    space = yaml.safe_load(matter)
    assert space["sdk"] == "gradio"
    assert (ROOT / space["app_file"]).exists()
    assert isinstance(space["python_version"], str), "3.10 is no number"
    colours = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert {space["colorFrom"], space["colorTo"]} <= colours
    assert space["title"] and len(space["emoji"]) == 1 and len(space["short_description"]) <= 60


# --- the version ---------------------------------------------------------------------------------------------


def test_the_newest_released_entry_of_the_changelog_is_the_version():
    headings = re.findall(r"^## \[(.+?)\](?: - (.*))?$", CHANGELOG, re.MULTILINE)
    (unreleased, _), (newest, day), *_ = headings
    assert unreleased == "Unreleased"
    assert newest == __version__
    assert datetime.date.fromisoformat(day)


def test_the_version_is_said_in_one_place_and_read_in_the_others():
    assert "version" in PROJECT["project"]["dynamic"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "core/__init__.py"
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == __version__
    assert citation["license"] == PROJECT["project"]["license"].partition(" AND ")[0], "of the code"


def test_app_py_says_its_version(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.parse(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"same-seed {__version__}\n"


# --- imports ---------------------------------------------------------------------------------------------------


def imported(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return {name.partition(".")[0] for name in found}


def test_core_names_itself_by_relative_imports_so_that_it_can_be_installed_under_another_name():
    assert not [str(file) for file in (ROOT / "core").rglob("*.py") if "core" in imported(file)]


def test_no_part_of_the_product_escapes_the_import_rules():
    parts = {f"core.{path.stem}" for path in (ROOT / "core").iterdir() if path.name[:1].isalpha()}
    layers, no_gradio, no_torch, *_ = PROJECT["tool"]["importlinter"]["contracts"]
    assert {name for layer in layers["layers"] for name in layer.split(" | ")} == parts
    assert set(no_gradio["source_modules"]) == parts - {"core.ui", "core.cli", "core.python"}
    assert parts - set(no_torch["source_modules"]) == {
        "core.engine",
        "core.scoring",
        "core.checkpoints",
        "core.template_process",
    }


def test_ray_is_known_to_what_needs_it_alone_and_a_laptop_never_sees_it():
    parts = {f"core.{path.stem}" for path in (ROOT / "core").iterdir() if path.name[:1].isalpha()} - {"core.cluster"}
    cluster = {f"core.cluster.{path.stem}" for path in (ROOT / "core" / "cluster").glob("*.py")}
    knowing = {f"core.cluster.{name}" for name in ("connection", "app", "replica", "router", "__init__")}
    [no_ray] = [
        each for each in PROJECT["tool"]["importlinter"]["contracts"] if each.get("forbidden_modules") == ["ray"]
    ]
    assert set(no_ray["source_modules"]) == parts | (cluster - knowing)


def test_every_room_of_the_page_and_everything_that_they_share_stands_in_the_contracts():
    rooms = {f"core.ui.{path.parent.name}" for path in (ROOT / "core" / "ui").glob("*/tab.py")}
    shared = {f"core.ui.{path.stem}" for path in (ROOT / "core" / "ui").glob("*.py") if path.stem != "__init__"}
    independent, unknowing = PROJECT["tool"]["importlinter"]["contracts"][-2:]
    assert set(independent["modules"]) == set(unknowing["forbidden_modules"]) == rooms
    assert set(unknowing["source_modules"]) == shared


@pytest.mark.slow
def test_importing_the_app_loads_no_weights_and_its_demo_can_be_built():
    script = (
        "import safetensors, transformers\n"
        "def refuse(*arguments, **options): raise SystemExit('weights were loaded')\n"
        "safetensors.safe_open = refuse\n"
        "transformers.PreTrainedModel.from_pretrained = refuse\n"
        "import app, sys\n"
        "assert 'gradio' not in sys.modules, 'the command line waits for the page'\n"
        "import gradio\n"
        "assert isinstance(app.demo, gradio.Blocks)\n"
        "assert not [name for name in sys.modules if name.startswith(('ray', 'core.cluster'))]\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_help_and_the_list_of_pairs_wait_for_no_library():
    heavy = {"torch", "transformers", "gradio", "huggingface_hub"}
    for arguments in (["--help"], ["--version"], ["pairs"]):
        script = (
            "import sys, app\n"
            "try: app.main(sys.argv[1:])\n"
            "except SystemExit: pass\n"
            f"assert not {heavy} & set(sys.modules), sorted({heavy} & set(sys.modules))\n"
        )
        command = [sys.executable, "-c", script, *arguments]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        assert any(said in ended.stdout for said in ("embedded", "list the model pairs", __version__))


# --- names ---------------------------------------------------------------------------------------------------------


def public_names(file: Path) -> set[str]:
    """The public classes and type aliases of a module."""
    found = set()
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found.add(node.targets[0].id)
    return {name for name in found if name[0].isupper() and not name.isupper()}


def test_no_two_classes_or_aliases_share_a_name():
    """Outside of the page, whose rooms each have a View of their own."""
    owners: dict[str, Path] = {}
    for file in sorted((ROOT / "core").rglob("*.py")):
        for name in () if "ui" in file.parts else public_names(file):
            assert owners.setdefault(name, file) == file, f"{name} is in {owners[name]} and in {file}"


# --- files ---------------------------------------------------------------------------------------------------------


def test_every_python_file_says_what_it_is_for():
    for file in tracked():
        if file.suffix == ".py":
            assert ast.get_docstring(ast.parse(file.read_text("utf-8"))), f"{file} has no docstring"


def test_a_clone_stays_small():
    sizes = {file: file.stat().st_size for file in tracked()}
    assert sum(sizes.values()) < 200e6
    for file, size in sizes.items():
        assert size < (60e6 if file.suffix == ".safetensors" else 2e6), f"{file.name} has {size:,} bytes"


# --- the map ------------------------------------------------------------------------------------------------------


def test_the_map_names_every_module():
    """Those of the page stand in a section of their own."""
    names = set(re.findall(r"`(core/[\w/]+\.py)`", (ROOT / "docs" / "architecture.md").read_text("utf-8")))
    for file in (ROOT / "core").rglob("*.py"):
        if "ui" not in file.parts and file.name != "__init__.py":
            assert str(file.relative_to(ROOT)) in names, f"{file} is missing in docs/architecture.md"


def test_an_afternoon_is_enough_for_the_reading_path():
    rows = [
        (name.strip("`"), int(lines))
        for name, lines in (row for row in table("architecture.md") if len(row) == 2 and row[1].isdigit())
    ]
    for name, lines in rows:
        assert len((ROOT / name).read_text("utf-8").splitlines()) == pytest.approx(lines, rel=0.1, abs=20), name
    assert 3_000 < sum(lines for _, lines in rows) < 4_400


# --- style sheets -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", sorted((ROOT / "core" / "ui").rglob("style.css")), ids=lambda file: file.parent.name)
def test_no_selector_holds_a_list_which_gradio_would_split(file):
    """Gradio puts a prefix before every selector and takes whatever stands between two commas for one."""
    rules = re.sub(r"/\*.*?\*/", "", file.read_text("utf-8"), flags=re.DOTALL)
    selectors = re.findall(r"([^{};]+)\{", re.sub(r"\"[^\"]*\"|'[^']*'", "", rules))
    assert len(selectors) > 5
    for selector in selectors:
        if not selector.strip().startswith("@"):
            assert all(part.count("(") == part.count(")") for part in selector.split(",")), selector.strip()


# --- documentation that is data --------------------------------------------------------------------------------------


def table(page: str) -> list[list[str]]:
    text = (ROOT / "docs" / page).read_text("utf-8")
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row] for row in rows]


def test_the_families_that_are_written_down_are_those_that_are_tested():
    assert [family for family, *rest in table("families.md") if len(rest) == 1][1:] == list(FAMILIES)
    assert [family for family, *rest in table("families.md") if len(rest) == 2][1:] == list(LAYERED)


def test_the_noise_that_is_written_down_is_the_noise():
    rows = [row for row in table("sampling.md") if row[0].isdigit()]
    assert len(rows) == 3
    for seed, step, noise in rows:
        keys = torch.tensor([sampling.key(int(seed), int(step))])
        expected = sampling.gumbel(keys, torch.tensor([0, 1, 2, 151_935]))[0].tolist()
        assert [float(value) for value in noise.split(",")] == pytest.approx(expected, abs=1e-11)


def test_the_address_that_is_written_down_is_the_default():
    assert f"http://{Settings().host}:{Settings().port}" in README
