#!/bin/sh
# Runs the benchmarks in an environment of their own, .tools/bench: the run-time's lock and what it is held against, each
# file checked against its hash. Made when first run, and again when the lock has changed. Called by `make bench`.
set -eu
cd "$(dirname "$0")/.."
env=.tools/bench

if ! [ -e "$env/.ready" ] || [ requirements/bench.txt -nt "$env/.ready" ]; then
    printf '%s\n' "bench: making $env, as locked in requirements/bench.txt" >&2
    rm -rf "$env"
    "${PYTHON:-python3}" -m venv "$env"
    "$env/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --require-hashes \
        --requirement requirements/bench.txt >&2
    touch "$env/.ready"
fi
exec "$env/bin/python" -m scripts.bench "$@"
