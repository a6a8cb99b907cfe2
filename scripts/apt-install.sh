#!/usr/bin/env bash
# Installs packages of Debian, as root, while nobody else of this repository does: `apt-install.sh PACKAGE...`. Without any it
# only learns which there are.
set -euo pipefail
cache=${XDG_CACHE_HOME:-$HOME/.cache}/weightcast
mkdir -p "$cache"
exec 9>"$cache/apt.lock"
flock 9
apt-get update -qq
if [ $# -eq 0 ]; then exit; fi
echo "installing $*"
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
