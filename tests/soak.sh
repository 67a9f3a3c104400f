#!/usr/bin/env bash
# The long form of every scenario that has one, and many more worlds for the property tests; an hour at most on two cores.
# What each proves stands in docs/robustness.md. PILUS_SOAK may be given: the number of worlds. Arguments go to pytest.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
export PILUS_SOAK=${PILUS_SOAK:-20000}
if [ "$#" -eq 0 ]; then
	mapfile -t files < <(grep -lE 'tests\.soak|tests\.properties\.conftest' --include='test_*.py' -r tests e2e/scenarios | sort)
	set -- "${files[@]}"
fi
exec tests/run.sh -s --timeout=3000 "$@"
