#!/usr/bin/env bash
# Installs a SGLang that runs on a CPU, and prints the path of its Python: `install-sglang.sh PYTHON`. PYTHON is the one of
# install-vllm.sh, whose torch and other packages it uses. It lies in the user's cache, or in WEIGHTCAST_SGLANG if that is
# set. Ends with 77 if a package cannot be had.
set -euo pipefail
version=0.5.16
base=$1
home=${WEIGHTCAST_SGLANG:-${XDG_CACHE_HOME:-$HOME/.cache}/weightcast/sglang-cpu-$version}
python=$home/bin/python
complete=$home/complete

say() { echo "install-sglang: $*" >&2; }
missing() { say "$*"; exit 77; }

packages_of() { "$1" -c 'import sysconfig; print(sysconfig.get_path("purelib"))'; }

pip() {
  nice -n 10 "$base" -m pip install -qq --disable-pip-version-check --retries 2 --no-deps --only-binary :all: \
    --target "$packages" "$@" >&2
}

# The wheel is for Python 3.11 by its name, for two parts of it in Rust that no test here uses.
sglang() {
  local wheels=$home/wheels
  nice -n 10 "$base" -m pip download -qq --disable-pip-version-check --no-deps --only-binary :all: \
    --python-version 3.11 --dest "$wheels" "sglang==$version" >&2 || return 1
  "$base" -m zipfile -e "$wheels"/sglang-*.whl "$packages"
  rm -r "$wheels"
}

mkdir -p "$home"
exec 9>"$home/lock"
flock 9
if [ ! -e "$complete" ]; then
  say "installing SGLang $version for the CPU into $home"
  "$base" -m venv --without-pip "$home" || missing "$base makes no virtual environment"
  packages=$(packages_of "$python")
  packages_of "$base" >"$packages/torch.pth"
  sglang || missing "SGLang $version cannot be had"
  # Of what SGLang requires, only what it imports on a CPU and vLLM has not, or has in another version.
  pip transformers==5.12.1 tokenizers==0.22.2 huggingface-hub==1.20.1 || missing "transformers 5.12.1 cannot be had"
  pip orjson partial-json-parser torch_memory_saver soundfile gguf==0.17.1 || missing "orjson or another cannot be had"
  pip ipython ipython_pygments_lexers traitlets matplotlib-inline decorator jedi parso stack_data executing asttokens \
    pure_eval prompt_toolkit pygments pexpect ptyprocess wcwidth || missing "IPython cannot be had"
  touch "$complete"
fi
echo "$python"
