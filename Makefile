# make run   serve the page on 127.0.0.1:7860 with the embedded pair
# make lock  the files of locks/ again from requirements*.txt: FLAGS=--upgrade takes the newest packages that are admitted
# make wheel the package and its sources, in dist/
# make lowest the quick tests on the lowest pydantic that requirements.txt admits
# make pair  train, measure and describe the embedded pair again (hours; needs the text that checkpoints/recipe/sources.toml names)
# make check style, types, import rules and the quick tests: what to run before every commit; needs no browser
# make format puts the style of the code right
# make test  everything that CI runs: make check's and all the other tests, the page's in a browser too
# make pictures takes the pictures of the README and of docs/gallery.md anew, in a browser
# make docs  the documentation as a site, in build/site
# make mutants whether the quick tests notice when core is changed in one place (an hour or two; FLAGS="core/links.py --each 40")
# make bench the benchmarks of this machine's processor; its tables go to benchmarks/results
# make soak  visitors of all kinds and faults at a server of its own: MINUTES=30
# make real  what can be held against transformers alone, on real weights: PAIR=smollm2-135m, or PAIR="FOLDER FOLDER"
# make other-machine replays the example receipt on an emulated arm64 and compares every bit (Debian; fills 1.3 GB of build/)
# make advisories whether an advisory is known for a version in locks/ (asks osv.dev)
# make gpu   all that a GPU must show, with a python3 that has torch, transformers and pydantic, and no .venv

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# Many tests start the app anew: what Python compiled is kept, whatever the caller's environment says.
export PYTHONDONTWRITEBYTECODE =

.PHONY: advisories run check test measured style format docs pictures browser mutants bench soak real other-machine gpu gpu-packages lock lowest wheel pair clean

run: $(VENV)/run.stamp
	$(BIN)/python app.py $(FLAGS)

PYTEST = $(BIN)/pytest -n 2 --dist worksteal --durations 10
QUICK := -m "not browser and not slow"

check: style
	$(PYTEST) $(QUICK) $(TESTS)

# Types are checked on one core, so the quick tests run beside.
test: browser $(VENV)/dev.stamp
	$(MAKE) --jobs 2 style measured
	$(if $(TESTS),,$(PYTEST) -m "browser or slow")

# What the quick tests run of core is measured; measuring the others would make them slower by half and tell little more.
measured: $(VENV)/dev.stamp
	$(PYTEST) $(if $(TESTS),$(TESTS),$(QUICK) --cov)

style: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/dev.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

pictures: $(VENV)/dev.stamp browser
	$(BIN)/python -m tools.pictures

mutants: $(VENV)/dev.stamp
	$(BIN)/python -m tools.mutants $(FLAGS)

bench: $(VENV)/dev.stamp browser
	$(BIN)/python -m benchmarks.engine --pairs embedded --save
	$(BIN)/python -m benchmarks.engine --pairs 135m --save
	$(BIN)/python -m benchmarks.lens --save
	$(BIN)/python -m benchmarks.page --browser --save
	$(BIN)/python -m benchmarks.arithmetic --save
	$(BIN)/python -m benchmarks.start --save

MINUTES ?= 30
soak: $(VENV)/dev.stamp browser
	$(BIN)/python -m benchmarks.soak --minutes $(MINUTES) $(FLAGS)

real: $(VENV)/dev.stamp
	$(BIN)/python -m benchmarks.real $(PAIR) $(FLAGS)

other-machine: $(VENV)/dev.stamp
	$(BIN)/python -m tools.other_machine $(FLAGS)

# The standard library is enough for it.
advisories:
	$(PYTHON) -m tools.advisories $(FLAGS)

gpu:
	@PYTHONPATH=build/gpu-packages$${PYTHONPATH:+:$$PYTHONPATH} $(PYTHON) -m benchmarks.gpu $(FLAGS)

# What `make gpu` needs beside torch and transformers, for a GPU machine without a network: carry build/gpu-packages there.
GPU_PYTHON_VERSION ?= 3.12
gpu-packages:
	$(PYTHON) -m pip install --quiet --upgrade --target build/gpu-packages --python-version $(GPU_PYTHON_VERSION) \
		--platform manylinux2014_x86_64 --only-binary=:all: $$(sed -n 's/^\(pydantic==[^ ]*\).*/\1/p' locks/run.txt)

# What is installed. Wheels alone, each of a sha256 that the lock names; torch by its version, since its builds differ by
# platform (docs/install.md), and last, so that it finds here what it shares with the others. Python compiles what it
# imports when it first does; pip would compile all of it beforehand, on one core, and most is never imported.
INSTALL = pip install --quiet --no-compile --require-hashes --no-deps --only-binary :all:
INSTALL_TORCH = pip install --quiet --no-compile -r locks/torch.txt

# uv reads of torch only what it needs, never a build of it. It is then asked whether every package has a wheel everywhere.
COMPILE = $(BIN)/uv pip compile --quiet --no-build --custom-compile-command "make lock" $(FLAGS)
LOCK = $(COMPILE) --universal --generate-hashes --python-version 3.11 --excludes locks/left-out.txt --no-emit-package torch
PYTHONS := 3.11 3.12 3.13
PLATFORMS := x86_64-manylinux_2_28 aarch64-manylinux_2_28 aarch64-apple-darwin x86_64-pc-windows-msvc
lock: $(VENV)/dev.stamp
	$(LOCK) -c locks/torch.txt -c requirements-dev.txt requirements.txt -o locks/run.txt
	$(LOCK) -c locks/run.txt requirements-dev.txt -o locks/dev.txt
	for python in 3.11 3.12; do $(COMPILE) --no-annotate --python-version $$python --python-platform x86_64-manylinux_2_28 \
		requirements.txt locks/space.txt -o locks/space-$$python.txt || exit 1; done
	for platform in $(PLATFORMS); do for python in $(PYTHONS); do for lock in run dev; do \
		echo "$$lock $$platform $$python"; $(BIN)/uv pip install --quiet --dry-run --no-deps --no-build --require-hashes --target build/none \
		--python-platform $$platform --python-version $$python -r locks/$$lock.txt || exit 1; done; done; done

wheel: $(VENV)/dev.stamp
	$(BIN)/hatchling build -d dist

# torch stays what it is: another version of it is another engine.
LOWEST := build/lowest/$(notdir $(BIN))
lowest:
	$(PYTHON) -m venv build/lowest
	$(LOWEST)/$(INSTALL) -r locks/run.txt
	$(LOWEST)/$(INSTALL) -r locks/dev.txt
	$(LOWEST)/$(INSTALL_TORCH)
	$(LOWEST)/pip install --quiet --no-compile $$(sed -n 's/^\(pydantic\)>=\([0-9.]*\),.*/\1==\2/p' requirements.txt)
	$(LOWEST)/pytest -n 2 --dist worksteal -m "not browser and not slow" --ignore tests/test_locks.py

# The recipe of the embedded pair, whole: FLAGS="--corpus FOLDER --config gpu" for another folder, a large GPU.
pair: $(VENV)/dev.stamp
	$(BIN)/python -m checkpoints.recipe $(FLAGS)

clean:
	rm -rf $(VENV) build dist

$(VENV)/run.stamp: locks/run.txt locks/torch.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/$(INSTALL) -r locks/run.txt
	$(BIN)/$(INSTALL_TORCH)
	touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp locks/dev.txt
	$(BIN)/$(INSTALL) -r locks/dev.txt
	touch $@

# The page tests drive Debian's Chromium. CHROMIUM=/path/to/chrome uses another one. Nothing here asks for rights that it
# does not have: whoever is not root is told what is missing.
browser:
	@{ command -v "$${CHROMIUM:-chromium}" && command -v curl; } >/dev/null 2>&1 || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; \
		then apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium curl; \
		else echo "The page tests need Chromium and curl: install Debian's packages chromium and curl as root, or name a browser by CHROMIUM=/path/to/chrome; make check runs without." >&2; exit 1; fi; }
