#!/bin/sh
# The Debian packages that the tests need: installed where we are root, else named.
#
# Tests start their own servers as ordinary processes; the services of these packages are neither
# started nor left to start at the next boot.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
. "$here/common.sh"

has_postgres() {
    have initdb && return
    for program in /usr/lib/postgresql/*/bin/initdb; do
        [ -x "$program" ] && return
    done
    return 1
}

has_pam_systemd() {
    for module in /lib/*/security/pam_systemd.so /usr/lib/*/security/pam_systemd.so; do
        [ -e "$module" ] && return
    done
    return 1
}

compiles() {
    have gcc && printf '#include <stdio.h>\nint main(void) { return 0; }\n' |
        gcc -x c -o /dev/null - 2>/dev/null
}

# Ubuntu's chromium is a snap, which a container cannot have: there its test is skipped.
needs_browser() {
    have chromium || have chromium-browser || have google-chrome && return 1
    grep -q '^ID=debian$' /etc/os-release 2>/dev/null
}

missing=
services=
if ! have redis-server && ! have valkey-server; then
    missing="$missing redis-server"
    services="$services redis-server"
fi
if ! has_postgres; then
    missing="$missing postgresql"
    services="$services postgresql"
fi
if ! have prometheus; then
    missing="$missing prometheus"
    services="$services prometheus"
fi
have node || missing="$missing nodejs"
have npm || missing="$missing npm"
if ! have /usr/sbin/sshd; then
    missing="$missing openssh-server"
    services="$services ssh"
fi
have ssh || missing="$missing openssh-client"
# What tenants leave behind, for the tests of cleaning.
if ! have crontab; then
    missing="$missing cron"
    services="$services cron"
fi
if ! have at; then
    missing="$missing at"
    services="$services atd"
fi
# The host that tests boot, with users of its own; without polkitd they may not linger.
[ -x /lib/systemd/systemd ] || missing="$missing systemd"
have dbus-daemon || missing="$missing dbus"
[ -e /usr/share/dbus-1/system-services/org.freedesktop.PolicyKit1.service ] ||
    missing="$missing polkitd"
[ -e /usr/lib/systemd/user/dbus.socket ] || missing="$missing dbus-user-session"
has_pam_systemd || missing="$missing libpam-systemd"
# With its own network and images, in the same place.
if ! have dockerd && ! [ -x /usr/sbin/dockerd ]; then
    missing="$missing docker.io"
    services="$services docker.service docker.socket containerd"
    # A package of its own from Debian 13 on.
    have docker || ! grep -q '^VERSION_ID="1[3-9]"' /etc/os-release || missing="$missing docker-cli"
fi
have ps || missing="$missing procps"
if ! have haproxy && ! [ -x /usr/sbin/haproxy ]; then
    missing="$missing haproxy"
    services="$services haproxy"
fi
have s3fs || missing="$missing s3fs"
compiles || missing="$missing gcc libc6-dev"
needs_browser && missing="$missing chromium"
# Names of packages hold no spaces.
# shellcheck disable=SC2086
set -- $missing
[ $# -gt 0 ] || exit 0

can_install ||
    die "The tests need what is not installed here. As root: apt-get install --no-install-recommends $*"
apt_install "$@"
if have systemctl; then
    for service in $services; do
        systemctl disable --quiet "$service" >/dev/null 2>&1 || true
    done
fi
