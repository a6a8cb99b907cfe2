#!/usr/bin/env bash
# Tests that need Python: its safetensors reads what we write, and the workers of python/ and of checkpoint-engine take
# weights from our ranks, with real torch. Uses WEIGHTCAST_PYTHON if it is set, else makes a virtual environment in
# .venv. checkpoint-engine's worker.py is what the package index has, or what WEIGHTCAST_CHECKPOINT_ENGINE names: the
# file, or a checkout of the project. Arguments: test files, by default all. Ends with 77 if there is no Python to test
# with: the packages cannot be had.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${WEIGHTCAST_PYTHON:-}" ]; then
  pip() { .venv/bin/python -m pip "$@" -qq --disable-pip-version-check --retries 1; }
  make_environment() {
    python3 -m venv .venv
    # The build without CUDA is a tenth as large; where its index is out of reach, any build will do.
    pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu 2>/dev/null || pip install torch==2.13.0 &&
      pip install pyzmq msgpack safetensors numpy
  }
  if ! .venv/bin/python -c 'import torch, zmq, msgpack, safetensors, numpy' 2>/dev/null; then
    make_environment || { echo "torch, pyzmq, msgpack, safetensors or numpy cannot be installed here" >&2; exit 77; }
    pip install --no-deps 'checkpoint-engine>=0.4' 2>/dev/null || true
  fi
  # Its example is in its source distribution, and imports all of it.
  if [ ! -d .venv/checkpoint-engine ]; then
    pip install httpx fastapi loguru pydantic 2>/dev/null &&
      pip download --no-deps --no-binary :all: --dest .venv/download 'checkpoint-engine>=0.4' 2>/dev/null &&
      mkdir .venv/checkpoint-engine &&
      tar xzf .venv/download/checkpoint_engine-*.tar.gz -C .venv/checkpoint-engine --strip-components 1 || true
  fi
  # The tests run from the source; this shows that it can be installed.
  pip install --force-reinstall --no-deps ./python
  export WEIGHTCAST_PYTHON="$PWD/.venv/bin/python"
fi
if [ $# -eq 0 ]; then set -- test/python; fi
node scripts/compile-tests.mjs
node scripts/test.mjs --test-concurrency=2 --test-timeout=300000 "$@"
