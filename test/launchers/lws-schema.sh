#!/usr/bin/env bash
# Prints the path of LeaderWorkerSet's own schema, the definition of its resource, which lies in its Go module. Ends with 77 if
# there is no Go, or the module cannot be had.
set -euo pipefail
module=sigs.k8s.io/lws@v0.7.0
missing() { echo "lws-schema: $*" >&2; exit 77; }
command -v go >/dev/null || missing "there is no go, with which $module is got"
cd /
export GOMODCACHE=${XDG_CACHE_HOME:-$HOME/.cache}/weightcast/launchers-go GOFLAGS=-modcacherw
directory=$(go mod download -json "$module" 2>/dev/null | sed -n 's/^\t"Dir": "\(.*\)",*$/\1/p')
schema=$directory/config/crd/bases/leaderworkerset.x-k8s.io_leaderworkersets.yaml
[ -e "$schema" ] || missing "$module cannot be had, or has no schema"
echo "$schema"
