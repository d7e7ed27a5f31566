#!/bin/sh
# Builds the wheel into the folder given (default: dist). From a copy of the sources: setuptools leaves a build/lib
# behind and packs what it finds there, files that have since been deleted too.
set -eu
out=${1:-dist}
cd "$(dirname "$0")/.."
mkdir -p "$out"
out=$(cd "$out" && pwd)
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT

cp -R -P pyproject.toml README.md LICENSE hauberk certs interceptors protos services "$copy"
find "$copy" -name __pycache__ -type d -prune -exec rm -rf {} +
if ! .venv/bin/python -m build --wheel --no-isolation --outdir "$out" "$copy" >"$copy/build.log" 2>&1; then
    cat "$copy/build.log" >&2
    exit 1
fi
ls "$out"/hauberk-*.whl
