#!/usr/bin/env bash
# Install what is needed and run every test: unit, property, packet and kernel tests, and beside them the scenarios in the lab,
# which wait more than they work. Arguments go to pytest, which then runs these alone (tests/run.sh tests/unit -k labels).
# Coverage is measured and shown at the end.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
"$root/e2e/bootstrap.sh"

# One run at a time on a machine: labs have names that are the machine's, and two runs on the same processors upset each other.
# --close: what a killed run left behind does not hold the lock.
lock=/run/pilus-tests.lock
flock --nonblock "$lock" true || printf "tests: another run is going on this machine; this one waits for it\n"

# A mount namespace of its own: the bpffs that tests pin into, and all that they pin, ends with it.
exec flock --close "$lock" unshare --mount --propagation private -- bash -c '
	set -e
	mount -t bpf bpf /sys/fs/bpf
	rm -f .coverage .coverage.*
	status=0
	if [ $# -gt 0 ]; then
		.venv/bin/coverage run -m pytest "$@" || status=$?
	else
		beside=$(mktemp)
		.venv/bin/coverage run -m pytest -p no:cacheprovider tests >"$beside" 2>&1 &
		tests=$!
		trap "kill $tests 2>/dev/null || true; rm -f $beside" EXIT
		.venv/bin/coverage run -m pytest -p no:cacheprovider e2e/scenarios || status=$?
		wait "$tests" || status=$?
		printf "\n== unit, property, packet and kernel tests, which ran beside the scenarios\n"
		cat "$beside"
	fi
	.venv/bin/coverage combine -q 2>/dev/null || true
	.venv/bin/coverage report --skip-covered --sort=cover 2>/dev/null | tail -n 40 || true
	printf "tests: exit status %s after %s s\n" "$status" "$SECONDS"
	exit $status
' run "$@"
