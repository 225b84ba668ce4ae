#!/bin/sh
# Prints the interpreter to use: $PYTHON, or the first in PATH that is new enough.
set -eu
. "$(dirname "$0")/common.sh"

OLDEST=3.11

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < tuple(map(int, sys.argv[1].split("."))))' \
        "$OLDEST" 2>/dev/null
}

if [ -n "${PYTHON:-}" ]; then
    have "$PYTHON" || die "PYTHON=$PYTHON is not a program. RemoteGPU needs Python $OLDEST or newer."
    new_enough "$PYTHON" ||
        die "PYTHON=$PYTHON is $("$PYTHON" --version 2>&1); RemoteGPU needs Python $OLDEST or newer."
    command -v "$PYTHON"
    exit
fi

for candidate in python3 python3.13 python3.12 python3.11; do
    if have "$candidate" && new_enough "$candidate"; then
        command -v "$candidate"
        exit
    fi
done

if have python3; then
    found="found $(python3 --version 2>&1 || true)"
else
    found="found no python3"
fi
die "RemoteGPU needs Python $OLDEST or newer and $found. Install one, or name it: make PYTHON=/path/to/python3"
