#!/usr/bin/env bash
# Everything that can be said about the code without running a mesh. Each check prints one line, and what it found if it
# failed; all of them run, so that one round shows everything. Called by `make check`.
set -uo pipefail
cd "$(dirname "$0")/.."

said=$(mktemp)
trap 'rm -f "$said"' EXIT
failed=0

check() { # what, command ...
  local what=$1 began=$SECONDS
  shift
  if "$@" >"$said" 2>&1; then
    printf 'ok    %-40s %3d s\n' "$what" $((SECONDS - began))
  else
    printf 'FAIL  %-40s %3d s   %s\n' "$what" $((SECONDS - began)) "$*"
    sed 's/^/      /' "$said"
    failed=1
  fi
}

check 'lint (ruff)' .venv/bin/ruff check --quiet .
check 'formatting (ruff)' .venv/bin/ruff format --check --quiet --diff .
check 'types of the package (mypy)' .venv/bin/mypy --strict --no-error-summary -p hauberk
check 'types of tests and scripts (mypy)' .venv/bin/mypy --strict --no-error-summary tests scripts
check 'layout and imports (pytest)' .venv/bin/pytest --quiet --no-header tests/layout
check 'contracts (buf)' .venv/bin/buf lint
check 'generated code is fresh' scripts/protos.sh --check
exit "$failed"
