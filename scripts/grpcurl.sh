#!/usr/bin/env bash
# The real grpcurl, as somebody of the mesh: certificate, key, CA and authority are filled in.
#
#   scripts/grpcurl.sh orders list
#   scripts/grpcurl.sh orders describe shop.orders.v1.Orders
#   scripts/grpcurl.sh --as gateway -d '{"sku": "RIVET-500"}' catalog shop.catalog.v1.Catalog/GetProduct
#
# Where grpcurl takes an address, this takes a workload; all of grpcurl's own options go before it, as there.
# --as NAME: call in a workload's name. What methods look like is asked as the operator all the same, for only
# operators may ask. --mesh FILE: another mesh than ./mesh.toml.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)

die() {
  printf 'grpcurl.sh: %s\n' "$1" >&2
  exit 1
}

usage() {
  sed -n '2,/^set/{/^#/s/^# \{0,1\}//p;}' "$0"
  exit "$1"
}

takes_value() { # an option of grpcurl's that is followed by its value
  case ${1##-} in
    d | H | connect-timeout | expand-headers | format | import-path | keepalive-time | max-msg-sz | max-time) ;;
    proto | protoset | protoset-out | proto-out-dir | reflect-header | rpc-header | user-agent | alts-handshaker-service) ;;
    -connect-timeout | -format | -import-path | -keepalive-time | -max-msg-sz | -max-time | -proto | -protoset) ;;
    -protoset-out | -proto-out-dir | -reflect-header | -rpc-header | -user-agent | -alts-handshaker-service) ;;
    *) return 1 ;;
  esac
}

name=operators/local
mesh=${HAUBERK_MESH:-mesh.toml}
options=()
while [ $# -gt 0 ]; do
  case $1 in
    --as | --mesh)
      [ $# -gt 1 ] || usage 2 >&2
      if [ "$1" = --as ]; then name=$2; else mesh=$2; fi
      shift 2
      ;;
    -h | -help | --help) usage 0 ;;
    -cert | -key | -cacert | -authority | -insecure | -plaintext | -servername)
      die "$1 is filled in here: leave it out, or use grpcurl itself"
      ;;
    -*)
      if takes_value "$1" && [ $# -gt 1 ]; then
        options+=("$1" "$2")
        shift 2
      else
        options+=("$1")
        shift
      fi
      ;;
    *) break ;;
  esac
done
[ $# -gt 1 ] || usage 2 >&2
workload=$1
shift

PATH=$here/.tools/bin:$here/.venv/bin:$PATH
command -v grpcurl >/dev/null || die 'grpcurl is not installed; next: make grpcurl'
command -v hauberk >/dev/null || die 'hauberk is not installed; next: make setup'

# Says itself what is missing where no mesh runs, and what to do.
credentials() { # NAME: sets key, chain, bundle
  local answer
  answer=$(hauberk identity "$1" --mesh "$mesh") || exit 1
  { read -r key && read -r chain && read -r bundle; } <<<"$answer"
}

# `address authority` of a replica of the workload that serves.
replicas=$(hauberk ps --mesh "$mesh" --json) || exit 1
found=$(python3 -c '
import json, sys
wanted = sys.argv[1]
for row in json.load(sys.stdin):
    if row["workload"] == wanted and row["status"] == "serving":
        domain, _, path = row["spiffe_id"].removeprefix("spiffe://").partition("/")
        print(row["address"], ".".join([*reversed(path.split("/")), domain]))
        break
' "$workload" <<<"$replicas")
[ -n "$found" ] || die "no replica of $workload serves; next: hauberk ps"
read -r address authority <<<"$found"

credentials operators/local
as_operator=(-cert "$chain" -key "$key" -cacert "$bundle" -authority "$authority")
if [ "$name" = operators/local ] || [ "$1" = list ] || [ "$1" = describe ]; then
  exec grpcurl "${as_operator[@]}" ${options[@]+"${options[@]}"} "$address" "$@"
fi

described=$(mktemp)
trap 'rm -f "$described"' EXIT
method=${1#/}
grpcurl "${as_operator[@]}" -protoset-out "$described" "$address" describe "${method%[/.]*}" >/dev/null
credentials "$name"
grpcurl -cert "$chain" -key "$key" -cacert "$bundle" -authority "$authority" -protoset "$described" \
  ${options[@]+"${options[@]}"} "$address" "$@"
