#!/usr/bin/env bash
# Looks up the known vulnerabilities of requirements/runtime.txt, the packages that a deployed hauberk consists of, and
# writes their bill of materials (CycloneDX) to build/sbom.cdx.json. Called by `make audit`.
#
#   ends 0  "audited": every package was looked up and nothing is known against any of them
#   ends 0  "not audited: <why>": no vulnerability service answered; nothing was learnt, and it is said
#   ends 1  findings, printed
#
# pip-audit without --strict ends 0 when it could look up nothing at all, so its exit code alone is never believed.
# PIP_AUDIT_VULNERABILITY_SERVICE=osv asks another service than the package index.
set -uo pipefail
cd "$(dirname "$0")/.."

lock=requirements/runtime.txt
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

bill_of_materials() {
  mkdir -p build
  PYTHONWARNINGS=ignore .venv/bin/cyclonedx-py requirements "$lock" --pyproject pyproject.toml --mc-type application \
    --output-format JSON --output-reproducible --output-file build/sbom.cdx.json || exit 1
  echo "audit: bill of materials in build/sbom.cdx.json"
}

look_up() { # extra arguments
  .venv/bin/pip-audit --requirement "$lock" --require-hashes --disable-pip --progress-spinner off "$@" \
    2>"$scratch/said"
}

known() { # how many vulnerabilities the report lists
  .venv/bin/python -c '
import json, sys
print(sum(len(found.get("vulns", ())) for found in json.load(sys.stdin)["dependencies"]))' <"$scratch/report.json"
}

bill_of_materials
packages=$(grep -c '==' "$lock")
if look_up --strict >"$scratch/report"; then
  echo "audited: $packages packages of $lock, no known vulnerability"
  exit 0
fi
why=$(tail -n 1 "$scratch/said" | sed -E 's/^[A-Z]+:[a-z_.]+://')

# --strict ends at the first package it cannot look up; without it, findings about the others are still told.
look_up --format json >"$scratch/report.json"
if [ -s "$scratch/report.json" ] && [ "$(known)" -gt 0 ]; then
  look_up --desc on
  exit 1
fi
echo "not audited: $why"
