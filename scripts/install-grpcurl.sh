#!/bin/sh
# Installs the real grpcurl into .tools/bin, built from source by Go, at the version pinned below.
# --optional (what `make test` says): without Go, or without a way to fetch the source, says so and ends 0; the tests
# that drive grpcurl are then skipped with this reason. In CI, where Go is there, a failed build is a failure.
set -eu
cd "$(dirname "$0")/.."

version=v1.9.4
module=github.com/fullstorydev/grpcurl/cmd/grpcurl
stamp=".tools/grpcurl-$version"

give_up() {
    printf '%s\n' "grpcurl: $*" >&2
    if [ "$optional" = yes ]; then exit 0; fi
    exit 1
}

optional=no
if [ "${1:-}" = --optional ]; then optional=yes; fi

if [ -x .tools/bin/grpcurl ] && [ -e "$stamp" ]; then exit 0; fi
if ! command -v go >/dev/null 2>&1; then
    give_up "not installed, its tests are skipped: install Go (Debian, Ubuntu: apt-get install golang-go), then make grpcurl"
fi

mkdir -p .tools/bin
echo "grpcurl: building $version with $(go env GOVERSION), a minute or two" >&2
# GOFLAGS is emptied: a -mod of somebody's environment has no meaning outside a module.
if ! GOBIN="$PWD/.tools/bin" GOFLAGS='' go install "$module@$version" >.tools/grpcurl.log 2>&1; then
    tail -n 5 .tools/grpcurl.log >&2
    if [ "${CI:-}" = true ]; then optional=no; fi
    give_up "not installed: go install $module@$version failed, the whole log is in .tools/grpcurl.log"
fi
rm -f .tools/grpcurl.log .tools/grpcurl-v*
touch "$stamp"
echo "grpcurl: $PWD/.tools/bin/grpcurl" >&2
