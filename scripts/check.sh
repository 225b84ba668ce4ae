#!/bin/sh
# Every check that needs no server. Runs all of them, shows what those that failed said.
set -u
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
. "$here/common.sh"
cd "$here/.." || exit

failed=
output=$(mktemp)
trap 'rm -f "$output"' EXIT

check() {
    name=$1
    shift
    if "$@" >"$output" 2>&1; then
        printf 'ok      %s\n' "$name"
    else
        printf 'FAILED  %s: %s\n' "$name" "$*"
        cat "$output"
        failed="$failed, $name"
    fi
}

# Otherwise the wrapper asks the network for a newer pyright and tells us about it.
export PYRIGHT_PYTHON_IGNORE_WARNINGS=1

check format .venv/bin/ruff format --check .
check lint .venv/bin/ruff check .
check layers .venv/bin/lint-imports
check SDL .venv/bin/remotegpu schema --check graphql/schema.graphql
check mypy .venv/bin/mypy
check pyright .venv/bin/pyright --pythonpath .venv/bin/python

[ -z "$failed" ] || die "Failed: ${failed#, }. \`make format\` mends format and much of lint."
