#!/usr/bin/env bash
# Installs what test/launchers/requirements-NAME.txt names into a virtual environment in the user's cache, and prints the path
# of its Python: `install.sh NAME`. A minute the first time, a moment later on. Ends with 77 if a package cannot be had.
set -euo pipefail
name=$1
here=$(cd "$(dirname "$0")" && pwd)
requirements=$here/requirements-$name.txt
# Other requirements, or another Python, are another environment.
key=$(cat "$requirements" <(python3 --version) | sha256sum | cut -c 1-8)
home=${XDG_CACHE_HOME:-$HOME/.cache}/weightcast/launchers-$name-$key
python=$home/bin/python

missing() { echo "install: $*" >&2; exit 77; }

mkdir -p "$home"
exec 9>"$home/lock"
flock 9
if [ ! -e "$home/complete" ]; then
  echo "install: installing $name into $home" >&2
  python3 -m venv "$home" || missing "python3 makes no virtual environment"
  nice -n 10 "$python" -m pip install -qq --disable-pip-version-check --retries 2 -r "$requirements" >&2 ||
    missing "what $requirements names cannot be had"
  touch "$home/complete"
fi
echo "$python"
