#!/usr/bin/env bash
# Installs what test/adapters/requirements-NAME.txt names, over the torch and vLLM that install-vllm.sh has installed, and
# prints the path of its Python: `install.sh NAME`. A few hundred MB and a minute the first time, a moment later on. It lies
# in the user's cache. Ends with 77 if a package cannot be had.
set -euo pipefail
name=$1
here=$(cd "$(dirname "$0")" && pwd)
base=$(bash "$here/../engines-real/install-vllm.sh")
requirements=$here/requirements-$name.txt
# Other requirements, or another vLLM, are another environment.
key=$(cat "$requirements" <(echo "$base") | sha256sum | cut -c 1-8)
home=${XDG_CACHE_HOME:-$HOME/.cache}/weightcast/adapters-$name-$key
python=$home/bin/python

missing() { echo "install: $*" >&2; exit 77; }

mkdir -p "$home"
exec 9>"$home/lock"
flock 9
if [ ! -e "$home/complete" ]; then
  echo "install: installing $name into $home" >&2
  "$base" -m venv --without-pip "$home" || missing "$base makes no virtual environment"
  "$base" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
    >"$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/vllm.pth"
  nice -n 10 "$base" -m pip --python "$python" install -qq --disable-pip-version-check --retries 2 --no-deps \
    -r "$requirements" >&2 || missing "what $requirements names cannot be had"
  touch "$home/complete"
fi
echo "$python"
