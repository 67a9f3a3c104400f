#!/usr/bin/env bash
# The long form of every scenario that has one, and many more worlds for the property tests; an hour at most on two cores.
# What each proves stands in docs/robustness.md. PILUS_SOAK may be given: the number of worlds. Arguments go to pytest.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
export PILUS_SOAK=${PILUS_SOAK:-20000}
export PILUS_COVERAGE=0 # it would take half as long again, and says nothing that a short run does not
export PYTEST_ADDOPTS="-s --timeout=3000 ${PYTEST_ADDOPTS:-}"
if [ "$#" -eq 0 ]; then
	mapfile -t files < <(grep -lE 'tests\.soak|tests\.properties\.conftest' --include='test_*.py' -r tests e2e/scenarios | sort)
	PILUS_BESIDE=$(printf '%s\n' "${files[@]}" | grep '^tests/properties/' | tr '\n' ' ')
	export PILUS_BESIDE
	mapfile -t files < <(printf '%s\n' "${files[@]}" | grep -v '^tests/properties/')
	set -- "${files[@]}"
fi
exec tests/run.sh "$@"
