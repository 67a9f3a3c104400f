#!/usr/bin/env bash
# Measure what Pilus costs, beside what people would otherwise run: a table, build/bench.json and build/bench.svg (docs/figures.md).
#   e2e/bench.sh [--quick] [--only GROUP]... [--docs]
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
"$root/e2e/bootstrap.sh"

# A mount namespace of its own: the bpffs that programs are pinned into ends with it.
export PYTHONPATH="$root/e2e:$root"
exec unshare --mount --propagation private -- bash -c '
	mount -t bpf bpf /sys/fs/bpf && exec .venv/bin/python -m bench "$@"
' bench "$@"
