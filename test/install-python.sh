#!/usr/bin/env bash
# Installs what REQUIREMENTS names into a virtual environment in the user's cache, and prints the path of its Python:
# `install-python.sh REQUIREMENTS [BASE]`. With BASE, another Python, it lies over the packages of that, and gets what is named
# and nothing that it depends on. A minute the first time, a moment later on. Ends with 77 if a package cannot be had.
set -euo pipefail
requirements=$(realpath "$1")
base=${2:-}
name=$(basename "$(dirname "$requirements")")-$(basename "$requirements" .txt | sed 's/^requirements-//')
# Other requirements, or another Python below, are another environment.
key=$(cat "$requirements" <(if [ -n "$base" ]; then echo "$base"; else python3 --version; fi) | sha256sum | cut -c 1-8)
home=${XDG_CACHE_HOME:-$HOME/.cache}/weightcast/$name-$key
python=$home/bin/python

missing() { echo "install-python: $*" >&2; exit 77; }
packages_of() { "$1" -c 'import sys; print(*[path for path in sys.path if path.endswith("-packages")], sep="\n")'; }

mkdir -p "$home"
exec 9>"$home/lock"
flock 9
if [ ! -e "$home/complete" ]; then
  echo "install-python: installing $name into $home" >&2
  if [ -z "$base" ]; then
    python3 -m venv "$home" || missing "python3 makes no virtual environment"
    pip=("$python" -m pip install)
  else
    "$base" -m venv --without-pip "$home" || missing "$base makes no virtual environment"
    packages_of "$base" >"$(packages_of "$python" | tail -1)/base.pth"
    pip=("$base" -m pip --python "$python" install --no-deps)
  fi
  nice -n 10 "${pip[@]}" -qq --disable-pip-version-check --retries 2 -r "$requirements" >&2 ||
    missing "what $requirements names cannot be had"
  touch "$home/complete"
fi
echo "$python"
