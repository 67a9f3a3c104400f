#!/usr/bin/env bash
# Build the image of Pilus into the cache, without any image registry, and print the archive's path.
#   e2e/image.sh            what is in the cache and fits is taken
#   e2e/image.sh --fresh    with the distribution's packages of today
# To a node: ctr -n k8s.io images import "$(e2e/image.sh)"
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$root/e2e/bootstrap.sh" --without-binaries
exec "$root/.venv/bin/python" -m pilus_lab.image "$@"
