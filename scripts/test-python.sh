#!/usr/bin/env bash
# Tests that need Python's safetensors. Uses WEIGHTCAST_PYTHON if it is set, else makes a virtual environment in .venv.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${WEIGHTCAST_PYTHON:-}" ]; then
  if [ ! -x .venv/bin/python ] || ! .venv/bin/python -c 'import safetensors, numpy' 2>/dev/null; then
    python3 -m venv .venv
    .venv/bin/pip install --quiet --disable-pip-version-check --retries 1 safetensors numpy
  fi
  export WEIGHTCAST_PYTHON="$PWD/.venv/bin/python"
fi
node --import tsx --test --test-reporter="$PWD/scripts/quiet-reporter.mjs" test/python/*.test.ts
