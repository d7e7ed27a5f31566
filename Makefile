# Everything a developer does, and CI does the same. `make help` prints every target.
# Needs make, a POSIX shell and Python 3.11 or newer; everything else is installed from the locks into .venv.

SHELL = /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

BIN = .venv/bin
READY = .venv/.ready
ARGS =
export PYTHON

.PHONY: help
help: ## print every target
	@awk -F ':.*## ' '/^[a-z]+:.*## /{ printf "  make %-9s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: setup
setup: $(READY) ## make .venv from the locks (PYTHON=... chooses the interpreter); done once, redone when they change

$(READY): requirements/dev.txt pyproject.toml scripts/setup.sh
	@scripts/setup.sh
	@touch $@

.PHONY: up
up: $(READY) ## run the whole mesh on this machine until Ctrl-C (ARGS=--once: drive orders through it, report, end)
	@exec $(BIN)/hauberk up $(ARGS)

.PHONY: test
test: $(READY) ## run every test (ARGS='-k rotation' chooses); installs grpcurl first where there is Go
	@scripts/install-grpcurl.sh --optional
	@exec $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

.PHONY: soak
soak: $(READY) ## the long versions of the tests of faults, one after the other; under 20 minutes
	@exec $(BIN)/pytest -m soak --soak $(ARGS)

.PHONY: check
check: $(READY) ## lint, formatting, types, layout, contracts and freshness of generated code; about a minute
	@scripts/check.sh

.PHONY: protos
protos: $(READY) ## generate the Python code of protos/ anew
	@scripts/protos.sh

.PHONY: stubs
stubs: $(READY) ## generate stubs for other languages into build/stubs: make stubs LANG=go
	@scripts/stubs.sh $(if $(findstring command,$(origin LANG)),$(LANG))

.PHONY: grpcurl
grpcurl: ## install the real grpcurl into .tools/bin (needs Go)
	@scripts/install-grpcurl.sh

.PHONY: bench
bench: ## measure what a call costs, ours and others' (ARGS chooses; ARGS=--help); makes an environment of its own
	@exec scripts/bench.sh $(ARGS)

.PHONY: audit
audit: $(READY) ## look up known vulnerabilities of what we ship with; write a CycloneDX SBOM into build/
	@scripts/audit.sh

.PHONY: lock
lock: $(READY) ## compile requirements/*.txt from pyproject.toml (ARGS=--upgrade: to the newest versions)
	@scripts/lock.sh $(ARGS)

.PHONY: wheel
wheel: $(READY) ## build the wheel into dist/
	@scripts/wheel.sh dist

.PHONY: clean
clean: ## remove all that make and a running mesh have left here, .hauberk/ with its CA too
	rm -rf .venv .tools .hauberk build dist ./*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
