#!/usr/bin/env bash
# Install what is needed and run every test: unit, property, packet and kernel tests, then the scenarios in the lab.
# Arguments go to pytest (tests/run.sh tests/unit -k labels). Coverage is measured and shown at the end.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
"$root/e2e/bootstrap.sh"

# A mount namespace of its own: the bpffs that tests pin into, and all that they pin, ends with it.
exec unshare --mount --propagation private -- bash -c '
	set -e
	mount -t bpf bpf /sys/fs/bpf
	rm -f .coverage .coverage.*
	status=0
	.venv/bin/coverage run -m pytest "$@" || status=$?
	.venv/bin/coverage combine -q 2>/dev/null || true
	.venv/bin/coverage report --skip-covered --sort=cover 2>/dev/null | tail -n 40 || true
	printf "tests: exit status %s after %s s\n" "$status" "$SECONDS"
	exit $status
' run "$@"
