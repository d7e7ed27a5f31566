#!/bin/sh
# Makes .venv from requirements/dev.txt, every file checked against its hash, and installs hauberk into it, editable.
# Needs a Python of 3.11 or newer with venv and pip; PYTHON=/path/to/python chooses one. Called by `make setup`.
set -eu
cd "$(dirname "$0")/.."

say() { printf '%s\n' "setup: $*" >&2; }

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python}; do
        if new_enough "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    say "no Python 3.11 or newer found${PYTHON:+ at $PYTHON}; install one, or name it: make setup PYTHON=/path/to/python3.11"
    exit 1
}

make_venv() {
    python=$(find_python) || exit 1
    say "$("$python" --version) at $python"
    rm -rf .venv
    if ! "$python" -m venv .venv >/dev/null 2>&1; then
        rm -rf .venv
        say "this Python cannot make a venv with pip in it: install its venv package (Debian, Ubuntu: apt-get install" \
            "python3-venv), or name another Python: make setup PYTHON=/path/to/python3.11"
        exit 1
    fi
}

# One line that counts on a terminal, one line in eight elsewhere; pip's own last words if it fails.
count() {
    if [ -t 2 ]; then terminal=1; else terminal=0; fi
    awk -v total="$1" -v terminal="$terminal" '
        /^pip ended / { status = $3; next }
        { tail[NR % 25] = $0 }
        /^Collecting / {
            sub(/==.*/, "", $2)
            n++
            if (terminal) printf "\r\033[Ksetup: %d of %d %s", n, total, $2 > "/dev/stderr"
            else if (n % 8 == 0) printf "setup: %d of %d\n", n, total > "/dev/stderr"
        }
        /^Installing collected packages/ {
            if (terminal) printf "\r\033[K" > "/dev/stderr"
            print "setup: installing" > "/dev/stderr"
        }
        END {
            if (status == 0) exit 0
            for (i = NR + 1; i <= NR + 25; i++) if (tail[i % 25] != "") print tail[i % 25] > "/dev/stderr"
            exit 1
        }'
}

install_locked() {
    wanted=$(grep -c '==' requirements/dev.txt)
    say "about $wanted packages, as locked in requirements/dev.txt"
    {
        .venv/bin/python -m pip install --disable-pip-version-check --no-input --progress-bar off \
            --require-hashes --requirement requirements/dev.txt 2>&1 && echo "pip ended 0" || echo "pip ended $?"
    } | count "$wanted"
}

install_hauberk() {
    # -W: setuptools warns on each editable install that a folder here could shadow the package; a test holds that.
    PYTHONWARNINGS=ignore .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps \
        --no-index --no-build-isolation --editable .
}

if ! [ -x .venv/bin/python ] || ! new_enough .venv/bin/python; then make_venv; fi
install_locked
install_hauberk
say "done; try: make help"
