#!/usr/bin/env bash
# Prints the path of a Python that has torch and checkpoint-engine: over the vLLM of test/engines-real, if that is installed,
# else over a torch of its own in the user's cache. checkpoint-engine's sources, with its example, lie beside its bin/ in
# checkpoint-engine/. Ends with 77 if there is no torch to be had.
set -euo pipefail
here=$(dirname "$0")
base=$(bash "$here/../engines-real/install-vllm.sh" --if-there) ||
  base=$(bash "$here/../install-python.sh" "$here/requirements-torch.txt") || exit 77
# Without it, its tests are left out.
python=$(bash "$here/../install-python.sh" "$here/requirements-checkpoint-engine.txt" "$base") || { echo "$base"; exit; }
home=${python%/bin/python}
if [ ! -d "$home/checkpoint-engine" ]; then
  scratch=$(mktemp -d -p "$home")
  trap 'rm -rf "$scratch"' EXIT
  "$base" -m pip download -qq --disable-pip-version-check --retries 1 --no-deps --no-binary :all: --dest "$scratch" \
    -r "$here/requirements-checkpoint-engine.txt" >&2 &&
    mkdir "$scratch/sources" &&
    tar xzf "$scratch"/checkpoint_engine-*.tar.gz -C "$scratch/sources" --strip-components 1 &&
    mv -T "$scratch/sources" "$home/checkpoint-engine" ||
    echo "the sources of checkpoint-engine cannot be had" >&2
fi
echo "$python"
