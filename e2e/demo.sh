#!/bin/bash
# Install what is missing, bring up a cluster of two nodes on this machine, and show an application under a policy.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
"$root/e2e/bootstrap.sh"
exec "$root/.venv/bin/python" -m pilus_lab.demo up
