# sekisho: `make run` watches this host, `make test` sets up and runs every check.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
# Without root, `make run` shows the replay; with a sudo that asks nothing, it captures.
SUDO_RUN := $(if $(filter 0,$(shell id -u)),,$(shell sudo -n true 2>/dev/null && echo sudo))
READY := $(VENV)/.ready
READY_DEV := $(VENV)/.ready-dev

help: ## what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "sekisho needs Python 3.11 or newer; this is $$($(PYTHON) --version)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed: install the package python3-venv"; exit 1; }

$(READY): $(VENV)/bin/python pyproject.toml requirements.txt
	@echo "setting up (once)"
	@$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements.txt
	@$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(READY_DEV): $(READY) requirements-dev.txt
	@$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@

setup: $(READY) ## the program in .venv, with its locked dependencies

run: $(READY) ## watch this host: live view, alerts (without privilege: the bundled replay)
	@$(SUDO_RUN) $(BIN)/sekisho db install --if-missing && $(SUDO_RUN) $(BIN)/sekisho up --or-replay

test: $(READY_DEV) ## set up and run every check and test
	@PATH="$(CURDIR)/$(BIN):$$PATH" tests/run.sh

check: $(READY_DEV) ## the quick checks alone: format, lint, types, imports
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy && $(BIN)/lint-imports

demo: $(READY) ## move real data between network namespaces and watch it end in one case (root)
	@$(SUDO) $(CURDIR)/$(BIN)/python deploy/examples/demo.py

bench: $(READY_DEV) ## every benchmark beside its peers; writes docs/performance.md
	@$(BIN)/python -m tests.bench

bench-peers: $(READY_DEV) ## fetch Quix Streams and Spark for `python -m tests.bench fleet rows` (0.6 GB, in .cache/peers)
	@$(BIN)/python -m tests.bench.streaming

bench-capture: $(READY_DEV) ## what live capture counts and costs, written into docs/capture-accuracy.md (root, about 40 minutes)
	@$(SUDO) $(CURDIR)/$(BIN)/python -m tests.bench.bench_capture
	@$(SUDO) $(CURDIR)/$(BIN)/python -m tests.bench.bench_overhead
	@$(SUDO) $(CURDIR)/$(BIN)/python -m tests.bench.bench_whole

KAFKA_PORT ?= 9092
kafka-up: $(READY) ## Apache Kafka on loopback for a trial, topics made (needs Java and Maven); KAFKA_PORT=9092
	@$(BIN)/python -m tests.tools.trial_kafka up --port $(KAFKA_PORT)

kafka-down: $(READY) ## stop it and remove its data
	@$(BIN)/python -m tests.tools.trial_kafka down

soak: $(READY_DEV) ## an agent's memory over half an hour with an outage of Kafka, written into docs/scaling.md (root, a real Kafka)
	@$(SUDO) $(CURDIR)/$(BIN)/python -m tests.bench soak

fault: $(READY_DEV) ## every fault test in its long form; writes docs/reliability.md (root, a real Kafka, about an hour)
	@$(SUDO) env TESTS_FAULTS=all $(CURDIR)/$(BIN)/python -m pytest tests/faults

docs: $(READY_DEV) ## write the generated pages of docs/ anew
	@$(BIN)/python -m tests.tools.write_docs

lock: $(READY_DEV) ## renew the locked dependencies (hashes, no addresses)
	@$(BIN)/python -m tests.tools.lock

bpf: ## compile the eBPF programs anew (needs clang, llvm-strip and libbpf's headers)
	@sh collectors/bpf/build.sh

libbpf: ## copy this system's libbpf into the tree, for a wheel that needs none on the host
	@sh collectors/bpf/bundle.sh

wheel: $(READY_DEV) ## build the wheel into dist/
	@$(BIN)/python -m build --wheel --no-isolation -q

tidy: ## remove what was made here
	@rm -rf $(VENV) build dist collectors/bpf/lib .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.PHONY: help setup run test check demo bench bench-peers bench-capture soak kafka-up kafka-down fault docs lock bpf libbpf wheel tidy
