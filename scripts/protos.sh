#!/usr/bin/env bash
# Generates the Python modules beside the contracts in protos/.
#
#   scripts/protos.sh           generate
#   scripts/protos.sh --check   fail if what is committed is not what would be generated
#   scripts/protos.sh --envoy   generate the Envoy API files as well (protos/third_party/{envoy,udpa,validate,xds});
#                               needs a package index, once per change of scripts/envoy_api.py
#
# Contracts keep their canonical file names, so that every language imports them as they are; Python's imports are
# rewritten to live under the one package: shop.orders.v1 becomes hauberk.protos.shop.orders.v1.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
bin=$(dirname "$python")

own() { (cd protos && find hauberk shop -name '*.proto' | sort); }
third_party() { (cd protos/third_party && find buf grpc -name '*.proto' | sort); }

rewrite() { # folder, package prefix, top-level packages
  local tops=$3
  find "$1" \( -name '*_pb2.py' -o -name '*_pb2.pyi' -o -name '*_pb2_grpc.py' -o -name '*_pb2_grpc.pyi' \) -print0 |
    xargs -0 sed -E -i "s/^(from|import) ($tops)([. ])/\1 $2.\2\3/"
  find "$1" -type d -exec touch {}/__init__.py \;
}

generate() { # target folder
  local out=$1
  mkdir -p "$out/third_party"
  "$python" -m grpc_tools.protoc -Iprotos -Iprotos/third_party --python_out="$out" --pyi_out="$out" \
    --grpc_python_out="$out" --plugin="$bin/protoc-gen-mypy_grpc" --mypy_grpc_out="quiet:$out" $(own)
  "$python" -m grpc_tools.protoc -Iprotos/third_party --python_out="$out/third_party" --pyi_out="$out/third_party" \
    $(third_party)
  for top in hauberk shop; do
    rewrite "$out/$top" hauberk.protos 'hauberk|shop'
    rewrite "$out/$top" hauberk.protos.third_party 'buf'
  done
  rewrite "$out/third_party/buf" hauberk.protos.third_party 'buf'
  rewrite "$out/third_party/grpc" hauberk.protos.third_party 'grpc\.reflection'
  touch "$out/__init__.py" "$out/third_party/__init__.py"
}

envoy() {
  local scratch
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' RETURN
  "$python" -m venv "$scratch/venv"
  "$scratch/venv/bin/pip" install --quiet --require-hashes -r requirements/envoy-api.txt
  "$scratch/venv/bin/python" scripts/envoy_api.py "$scratch/api.binpb" > "$scratch/files"
  local out=protos/third_party
  rm -rf "$out/envoy" "$out/udpa" "$out/validate" "$out/xds"
  xargs "$python" -m grpc_tools.protoc --descriptor_set_in="$scratch/api.binpb" --python_out="$out" --pyi_out="$out" \
    < "$scratch/files"
  for top in envoy udpa validate xds; do
    rewrite "$out/$top" hauberk.protos.third_party 'envoy|udpa|validate|xds'
  done
}

case "${1:-}" in
  '') generate protos ;;
  --envoy) generate protos && envoy ;;
  --check)
    fresh=$(mktemp -d)
    trap 'rm -rf "$fresh"' EXIT
    generate "$fresh"
    for file in $(cd "$fresh" && find . -type f); do
      cmp -s "$fresh/$file" "protos/$file" || { echo "stale: protos/${file#./}; run make protos"; stale=1; }
    done
    [ -z "${stale:-}" ] && echo "generated code is fresh" ;;
  *) sed -n '2,8p' "$0"; exit 2 ;;
esac
