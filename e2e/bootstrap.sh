#!/usr/bin/env bash
# Bring a Debian 12 machine to where everything of this repository runs: distribution packages, the virtual
# environment in .venv, and the lab's binaries. What is there is left alone: the second run takes a second.
#   e2e/bootstrap.sh                    everything
#   e2e/bootstrap.sh --without-binaries  all but the lab's binaries (for lint and unit tests)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
say() { printf '%s  %s\n' "$(date +%T)" "$*" >&2; }

[ "$(id -u)" = 0 ] || { say "root is needed: eBPF, network namespaces and distribution packages. Try: sudo $0"; exit 1; }

missing=()
while read -r package _; do
	case $package in '' | '#'*) continue ;; esac
	[ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null)" = "ii " ] || missing+=("$package")
done <"$root/e2e/packages.txt"
if [ ${#missing[@]} -gt 0 ]; then
	say "installing ${#missing[@]} distribution packages: ${missing[*]}"
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -q >/dev/null
	# Two of them would start a service of their own on this machine: the lab runs its own, in its own namespaces.
	policy=/usr/sbin/policy-rc.d
	if [ ! -e $policy ]; then
		printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy
		trap 'rm -f $policy' EXIT
	fi
	apt-get install -q -y --no-install-recommends -o Dpkg::Use-Pty=0 "${missing[@]}" >/dev/null
	if [ -n "$(trap -p EXIT)" ]; then rm -f $policy; trap - EXIT; fi
fi

# The environment is made with the distribution's Python, the same one that has bcc, and again when the lock changes.
lock=$(sha256sum "$root/requirements.lock" "$root/pyproject.toml" | sha256sum | cut -c1-16)
if [ "$(cat "$root/.venv/.pilus-lock" 2>/dev/null)" != "$lock" ]; then
	say "making the virtual environment (about a minute, less when the packages are cached)"
	# From nothing: what an older lock had is imported by whoever tries whether it is there.
	/usr/bin/python3 -m venv --clear "$root/.venv"
	said=$("$root/.venv/bin/pip" install -q --disable-pip-version-check --require-hashes -r "$root/requirements.lock" 2>&1) ||
		{ printf '%s\n' "$said" >&2; exit 1; }
	said=$("$root/.venv/bin/pip" install -q --disable-pip-version-check --no-deps --no-build-isolation -e "$root" 2>&1) ||
		{ printf '%s\n' "$said" >&2; exit 1; }
	echo "$lock" >"$root/.venv/.pilus-lock"
fi

if [ "${1:-}" != --without-binaries ]; then
	"$root/e2e/binaries/build.sh" >/dev/null
fi
