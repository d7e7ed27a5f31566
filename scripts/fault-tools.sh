#!/bin/sh
# Installs what the tests of faults drive: nft and ip (partitions between network namespaces), libfaketime (clocks that
# jump). Needs root and a Debian or Ubuntu; elsewhere it says what is missing, and those tests are skipped. Called by CI.
set -eu

say() { printf '%s\n' "fault-tools: $*" >&2; }

missing=''
command -v nft >/dev/null 2>&1 || missing="$missing nftables"
command -v ip >/dev/null 2>&1 || missing="$missing iproute2"
command -v faketime >/dev/null 2>&1 || missing="$missing faketime"
if [ -z "$missing" ]; then
    say "nft, ip and faketime are here"
    exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    say "missing:$missing; the tests that need them are skipped. As root on Debian or Ubuntu: apt-get install$missing"
    exit 0
fi
say "installing$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# Each missing package is one word.
# shellcheck disable=SC2086
apt-get install -y -qq --no-install-recommends $missing >/dev/null
say "done"
