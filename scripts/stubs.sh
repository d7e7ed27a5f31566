#!/usr/bin/env bash
# Generates stubs of our contracts for other languages, into build/stubs/<language>.
#
#   scripts/stubs.sh go,java,node
#
# go    needs Go; makes the module hauberk.dev/protos, with gRPC-Go services
# java  needs Maven; protobuf's and gRPC's own generators, fetched as Maven artifacts
# node  needs npm; TypeScript by ts-proto, with services for @grpc/grpc-js
# The generators are pinned here and kept in .tools. buf reads the contracts; nothing is sent anywhere.
# buf/validate comes along for java and node. Go's stubs import the module that its authors publish, which `go mod tidy`
# finds: a program that links two copies of one contract panics.
set -euo pipefail
cd "$(dirname "$0")/.."

protoc_gen_go=google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
protoc_gen_go_grpc=google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2
protoc=4.35.1
protoc_gen_grpc_java=1.82.0
ts_proto=ts-proto@2.18.0

tools=$PWD/.tools
say() { echo "stubs: $*" >&2; }
need() { command -v "$1" >/dev/null || { say "LANG=$2 needs $1, which is not on the path"; exit 1; }; }

generate() { # language, the plugins of a buf template, the folders of protos/
  rm -rf "build/stubs/$1"
  mkdir -p "build/stubs/$1"
  .venv/bin/buf generate $(printf -- '--path protos/%s ' ${3:-hauberk shop third_party/buf}) \
    --output "build/stubs/$1" --template "{\"version\": \"v2\", \"plugins\": [$2]}"
  say "build/stubs/$1"
}

go_stubs() {
  need go go
  GOBIN=$tools/bin GOFLAGS='' go install "$protoc_gen_go"
  GOBIN=$tools/bin GOFLAGS='' go install "$protoc_gen_go_grpc"
  local opt='"opt": "module=hauberk.dev/protos"'
  generate go "{\"local\": \"$tools/bin/protoc-gen-go\", \"out\": \".\", $opt},
    {\"local\": \"$tools/bin/protoc-gen-go-grpc\", \"out\": \".\", $opt}" 'hauberk shop'
  printf 'module hauberk.dev/protos\n' >build/stubs/go/go.mod
}

fetch_from_maven() { # group:artifact:version, file
  [ -x "$2" ] && return
  local system=linux cpu=x86_64
  [ "$(uname -s)" = Darwin ] && system=osx
  case $(uname -m) in arm64 | aarch64) cpu=aarch_64 ;; esac
  mkdir -p "$tools/java"
  mvn --batch-mode --quiet dependency:copy -Dartifact="$1:exe:$system-$cpu" -DoutputDirectory="$tools/java"
  mv "$tools/java/$(cut -d: -f2 <<<"$1")-$(cut -d: -f3 <<<"$1")-$system-$cpu.exe" "$2"
  chmod +x "$2"
}

java_stubs() {
  need mvn java
  fetch_from_maven "com.google.protobuf:protoc:$protoc" "$tools/java/protoc-$protoc"
  fetch_from_maven "io.grpc:protoc-gen-grpc-java:$protoc_gen_grpc_java" "$tools/java/grpc-$protoc_gen_grpc_java"
  generate java "{\"protoc_builtin\": \"java\", \"protoc_path\": \"$tools/java/protoc-$protoc\", \"out\": \".\"},
    {\"local\": \"$tools/java/grpc-$protoc_gen_grpc_java\", \"out\": \".\"}"
}

node_stubs() {
  need npm node
  npm install --silent --no-audit --no-fund --prefix "$tools/node" "$ts_proto"
  generate node "{\"local\": \"$tools/node/node_modules/.bin/protoc-gen-ts_proto\", \"out\": \".\",
    \"opt\": [\"outputServices=grpc-js\", \"esModuleInterop=true\", \"env=node\"]}"
}

[ -n "${1:-}" ] || { say 'say which: make stubs LANG=go,java,node'; exit 2; }
for language in ${1//,/ }; do
  case $language in
    go | java | node) "${language}_stubs" ;;
    *) say "no generator for $language; there are go, java and node"; exit 2 ;;
  esac
done
