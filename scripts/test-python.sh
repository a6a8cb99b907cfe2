#!/usr/bin/env bash
# Tests that need Python: its safetensors reads what we write, and the workers of python/ and of checkpoint-engine take
# weights from our ranks, with real torch. Uses WEIGHTCAST_PYTHON if it is set, else what test/python/install.sh finds or
# installs. checkpoint-engine's worker.py is what the package index has, or what WEIGHTCAST_CHECKPOINT_ENGINE names: the
# file, or a checkout of the project. Arguments: test files, by default all. Ends with 77 if there is no Python to test
# with: the packages cannot be had.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${WEIGHTCAST_PYTHON:-}" ]; then
  WEIGHTCAST_PYTHON=$(bash test/python/install.sh)
  export WEIGHTCAST_PYTHON
fi
# Its example is in its source distribution.
sources=${WEIGHTCAST_PYTHON%/bin/*}/checkpoint-engine
if [ -d "$sources" ]; then export WEIGHTCAST_CHECKPOINT_ENGINE="${WEIGHTCAST_CHECKPOINT_ENGINE:-$sources}"; fi
if [ $# -eq 0 ]; then set -- test/python; fi
node scripts/compile-tests.mjs
node scripts/test.mjs --test-concurrency=2 --test-timeout=600000 "$@"
