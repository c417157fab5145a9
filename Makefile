# The tasks of a developer; `make` alone lists them. `.ci/run` runs all but `bench`.

PYTHON ?= python
SHELL := bash

.PHONY: help check test slow compile parity docs site wheel bench

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand --tabs=10

check: ## style, types, and which room imports which
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	lint-imports --no-logo

test: ## the quick tests: minutes on two cores, without torch, network or browser
	$(PYTHON) -m pytest -n 2 --dist loadfile

slow: ## tests that take more than ten seconds each, those in a browser among them
	$(PYTHON) -m pytest -m slow

compile: ## programs for machines that are not here (the extras `tpu` and `cuda13`)
	$(PYTHON) -c "import libtpu, jax_cuda13_plugin"
	$(PYTHON) -m pytest -m slow -k not_here

parity: ## the comparison with torch and diffusers (the extra `parity`)
	$(PYTHON) -m pytest tests/parity -m parity

docs: ## what the documentation says: links, commands, imports, numbers, exported names
	$(PYTHON) -m pytest tests/test_docs.py tests/test_exports.py

site: ## the documentation as a site in site/ (the extra `docs`); a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict

wheel: ## build the wheel, install it in a fresh environment elsewhere, and run it there
	rm -rf dist
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir dist .
	unset PYTHONPATH && wheel=$$(realpath dist/*.whl) && place=$$(mktemp -d) && \
	  trap 'rm -rf "$$place"' EXIT && \
	  $(PYTHON) -m venv "$$place/venv" && cd "$$place" && export PATH="$$place/venv/bin:$$PATH" && \
	  pip install --quiet "$$wheel" && \
	  wanjax --version && \
	  wanjax plan wan2.2-t2v-a14b use_magcache=True && \
	  wanjax generate prompt="a red ball moving right" use_magcache=True output=ball.mp4 && \
	  test -s ball.mp4 && test -s ball.json

bench: ## tables of the documentation that come from measurements
	$(PYTHON) benchmarks/resampling.py tiny-t2v
	$(PYTHON) benchmarks/resampling.py tiny-i2v
