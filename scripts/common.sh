# shellcheck shell=sh
# Sourced by the scripts beside it: messages, and Debian packages. POSIX sh.

say() {
    printf '%s\n' "$*" >&2
}

die() {
    say "$*"
    exit 1
}

have() {
    command -v "$1" >/dev/null 2>&1
}

can_install() {
    [ "$(id -u)" = 0 ] && have apt-get
}

# apt_install PACKAGE...: quiet unless it fails, and without starting any service. Debian starts
# the daemons of the packages that it installs; a policy-rc.d that answers 101 forbids that.
apt_install() {
    say "Installing Debian packages: $*"
    apt_log=$(mktemp)
    apt_policy=
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        apt_policy=/usr/sbin/policy-rc.d
        trap 'rm -f "$apt_policy"' EXIT
        trap 'exit 130' INT TERM
        printf '#!/bin/sh\nexit 101\n' >"$apt_policy"
        chmod 755 "$apt_policy"
    fi
    apt_status=0
    {
        apt_get update && apt_get install -y --no-install-recommends "$@"
    } >"$apt_log" 2>&1 || apt_status=$?
    if [ -n "$apt_policy" ]; then
        rm -f "$apt_policy"
        trap - EXIT INT TERM
    fi
    if [ "$apt_status" != 0 ]; then
        cat "$apt_log" >&2
        rm -f "$apt_log"
        die "Could not install $*: apt-get's words are above. Install them by hand, then try again."
    fi
    rm -f "$apt_log"
}

apt_get() {
    DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
        apt-get -q -o DPkg::Lock::Timeout=300 "$@" </dev/null
}
