#!/usr/bin/env bash
# Install what is needed and run every test: unit, property, packet and kernel tests, and beside them the scenarios in the lab,
# which wait more than they work. Arguments go to pytest, which then runs these alone (tests/run.sh tests/unit -k labels); a folder
# or files in PILUS_BESIDE run beside them. Coverage is measured and shown at the end, unless PILUS_COVERAGE is 0.
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
	python=(.venv/bin/coverage run)
	if [ "${PILUS_COVERAGE:-}" = 0 ]; then python=(.venv/bin/python); fi
	if [ $# -eq 0 ]; then
		PILUS_BESIDE=tests
		set -- e2e/scenarios
	fi
	if [ -z "${PILUS_BESIDE:-}" ]; then
		"${python[@]}" -m pytest "$@" || status=$?
	else
		beside=$(mktemp)
		# Words: files have no spaces in their names.
		"${python[@]}" -m pytest -p no:cacheprovider $PILUS_BESIDE >"$beside" 2>&1 &
		tests=$!
		trap "kill $tests 2>/dev/null || true; rm -f $beside" EXIT
		"${python[@]}" -m pytest -p no:cacheprovider "$@" || status=$?
		wait "$tests" || status=$?
		printf "\n== beside them: %s\n" "$PILUS_BESIDE"
		cat "$beside"
	fi
	.venv/bin/coverage combine -q 2>/dev/null || true
	.venv/bin/coverage report --skip-covered --sort=cover 2>/dev/null | tail -n 40 || true
	printf "tests: exit status %s after %s s\n" "$status" "$SECONDS"
	exit $status
' run "$@"
