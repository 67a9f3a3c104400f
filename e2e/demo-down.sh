#!/bin/bash
# Take the demo down; no process, namespace, mount, link, cgroup or pin stays.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
[ -x "$root/.venv/bin/python" ] || { echo "nothing was installed here, so nothing is up" >&2; exit 0; }
exec "$root/.venv/bin/python" -m pilus_lab.demo down
