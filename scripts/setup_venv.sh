#!/bin/sh
# setup_venv.sh run|dev: a virtual environment in .venv with the locked dependencies and this
# checkout. `run` is what the programs need, `dev` adds what tests and checks need.
#
# A stamp in .venv names what was installed, so that a second call costs next to nothing.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
. "$here/common.sh"
cd "$here/.."

want=${1:?usage: setup_venv.sh run|dev}

locks_of() {
    case $1 in
    run) echo api agent build ;;
    dev) echo dev ;;
    *) die "Expected run or dev, got $1." ;;
    esac
}

stamp() {
    # Scripts in .venv/bin hold its absolute path, so a checkout that was moved needs a new one.
    printf '%s\n' "$1 $(pwd)"
    for lock in $(locks_of "$1"); do cat "requirements/$lock.txt"; done | cksum
    cksum <pyproject.toml
}

up_to_date() {
    [ -f ".venv/.remotegpu-$1" ] && [ "$(stamp "$1")" = "$(cat ".venv/.remotegpu-$1")" ]
}

works() {
    [ -x .venv/bin/python ] &&
        .venv/bin/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

locks=$(locks_of "$want")
# `dev` holds everything that `run` does.
if works && { up_to_date "$want" || up_to_date dev; }; then
    exit
fi

if ! works || [ "$(cat .venv/.remotegpu-path 2>/dev/null || pwd)" != "$(pwd)" ]; then
    python=$("$here/find_python.sh")
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
        if can_install; then
            apt_install "python$version-venv"
        else
            die "$python lacks the module venv. Install it (Debian, Ubuntu: apt-get install python$version-venv), then try again."
        fi
    fi
    say "Making the virtual environment .venv with Python $version."
    "$python" -m venv --clear .venv || die "Could not make .venv: the reason is above."
    pwd >.venv/.remotegpu-path
fi

say "Installing the locked dependencies into .venv; the first time takes a minute or two."
pip() {
    # An option that a developer set for all of pip must not lead this install out of .venv.
    PIP_USER=0 PIP_TARGET='' PIP_PREFIX='' PIP_CONSTRAINT='' \
        .venv/bin/python -m pip --disable-pip-version-check --no-input -qq "$@"
}
set --
for lock in $locks; do set -- "$@" -r "requirements/$lock.txt"; done
pip install --require-hashes "$@" || die "Installing the dependencies failed: pip's words are above."
pip install --no-deps --no-build-isolation --no-index -e . ||
    die "Installing this checkout into .venv failed: pip's words are above."
stamp "$want" >".venv/.remotegpu-$want"
