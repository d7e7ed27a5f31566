#!/bin/sh
# Writes requirements/*.txt from pyproject.toml: for every platform and Python >= 3.11, with hashes, naming no index.
# Called by `make lock`; extra arguments go to uv: make lock ARGS='--upgrade-package grpcio', or ARGS=--upgrade for all.
set -eu
cd "$(dirname "$0")/.."

compile() {
    .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
        --no-emit-find-links --custom-compile-command "make lock" "$@"
}

compile pyproject.toml --output-file requirements/runtime.txt "$@"
compile pyproject.toml --all-extras --group dev --constraint requirements/runtime.txt \
    --output-file requirements/dev.txt "$@"
compile pyproject.toml --group bench --constraint requirements/dev.txt --output-file requirements/bench.txt "$@"
