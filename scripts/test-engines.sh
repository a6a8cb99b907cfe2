#!/usr/bin/env bash
# Tests with a real vLLM on the CPU: engines that we updated answer as engines that were started with the weights. The
# first time it installs vLLM into the user's cache, 9 GB (test/engines-real/install-vllm.sh). Arguments: test files and
# options of scripts/test.mjs. Ends with 77 if there is no vLLM to test with.
set -euo pipefail
cd "$(dirname "$0")/.."
WEIGHTCAST_VLLM_PYTHON=$(bash test/engines-real/install-vllm.sh)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export WEIGHTCAST_VLLM_PYTHON WEIGHTCAST_VLLM_PACKAGES=$scratch/packages WEIGHTCAST_VLLM_MODELS=$scratch/models
# As users install it: vLLM finds our engine by an entry point, which a source tree does not have.
"$WEIGHTCAST_VLLM_PYTHON" -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation \
  --target "$WEIGHTCAST_VLLM_PACKAGES" ./python
"$WEIGHTCAST_VLLM_PYTHON" test/engines-real/make_models.py "$WEIGHTCAST_VLLM_MODELS" 2>/dev/null
node scripts/compile-tests.mjs
if [ $# -eq 0 ]; then set -- test/engines-real; fi
nice -n 10 node scripts/test.mjs --test-concurrency=1 --test-timeout=1800000 "$@"
