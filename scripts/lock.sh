#!/bin/sh
# Resolves pyproject.toml into requirements/*.txt for every Python and platform at once.
#
# Versions that still fit are kept; UPGRADE=1 takes the newest. The files hold hashes and no address
# of a registry, so that they install from any mirror.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
. "$here/common.sh"
cd "$here/.."

if have uv; then
    uv=uv
else
    [ -x .venv/bin/uv ] || .venv/bin/python -m pip install --quiet 'uv>=0.9'
    uv=.venv/bin/uv
fi

# resolve FILE ARGUMENT...
resolve() {
    target=$1
    shift
    "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
        ${UPGRADE:+--upgrade} --output-file "requirements/$target.txt" "$@"
}

resolve dev --extra dev pyproject.toml
# The others are parts of it: one version of everything, whatever is installed together.
resolve api --constraints requirements/dev.txt --extra api pyproject.toml
resolve agent --constraints requirements/dev.txt --extra agent pyproject.toml
.venv/bin/python -c '
import tomllib
print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")
' | resolve build --constraints requirements/dev.txt --no-annotate -
# Clients that tests try, each by itself: they want other versions of what the rest uses.
resolve_client() {
    name=$1
    shift
    printf '%s\n' "$@" | resolve "client-$name" --no-annotate -
}
resolve_client gql 'gql[requests,websockets]'
resolve_client ariadne ariadne-codegen websockets
