#!/usr/bin/env bash
# Everything a reader would complain about, before a reader has to: style, types, layers, generated files, programs.
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
"$root/e2e/bootstrap.sh" --without-binaries || exit

failed=()
gate() { # NAME COMMAND...: run them all, so that one run shows every complaint
	local name=$1
	shift
	printf -- '-- %s\n' "$name"
	"$@" || failed+=("$name")
}

gate "style" .venv/bin/ruff check . nodeagent/pilus_cni/pilus-cni
gate "format" .venv/bin/ruff format --check . nodeagent/pilus_cni/pilus-cni
gate "types" .venv/bin/mypy crds/pilus_api operator/pilus_operator nodeagent/pilus_agent nodeagent/pilus_maps \
	nodeagent/pilus_observer nodeagent/pilus_cli e2e/pilus_lab e2e/bench tests
gate "layers" .venv/bin/lint-imports
gate "generated CRDs" .venv/bin/python -m pilus_api.schema --check crds
gate "generated admission of settings" .venv/bin/python -m pilus_api.config_admission --check manifests
gate "eBPF programs" unshare --mount --propagation private -- bash -c '
	mount -t bpf bpf /sys/fs/bpf && exec .venv/bin/python -m pilus_agent.datapath.programs --report'

if [ ${#failed[@]} -gt 0 ]; then
	printf 'lint: failed: %s\n' "${failed[*]}"
	exit 1
fi
echo "lint: all clean"
