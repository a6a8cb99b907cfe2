#!/usr/bin/env bash
# Tests with a real SGLang on the CPU: an engine that we updated through the plug-in answers as one that was started with
# the weights. It takes torch from the vLLM of test-engines.sh, and the first time installs SGLang beside it into the
# user's cache (test/engines-real/install-sglang.sh). Arguments: options of scripts/test.mjs. Ends with 77 if there is no
# SGLang to test with.
set -euo pipefail
cd "$(dirname "$0")/.."
vllm=$(bash test/engines-real/install-vllm.sh)
WEIGHTCAST_SGLANG_PYTHON=$(bash test/engines-real/install-sglang.sh "$vllm")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export WEIGHTCAST_SGLANG_PYTHON WEIGHTCAST_SGLANG_PACKAGES=$scratch/packages WEIGHTCAST_SGLANG_MODELS=$scratch/models
# As users install it: SGLang finds our plug-in by an entry point, which a source tree does not have.
"$vllm" -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation \
  --target "$WEIGHTCAST_SGLANG_PACKAGES" ./python
cp -r test/engines-real/sgl_kernel test/engines-real/sglang_in_program.py "$WEIGHTCAST_SGLANG_PACKAGES"
"$vllm" test/engines-real/make_models.py "$WEIGHTCAST_SGLANG_MODELS" 2>/dev/null
node scripts/compile-tests.mjs
nice -n 10 node scripts/test.mjs --test-concurrency=1 --test-timeout=1800000 "$@" test/engines-real/sglang-updates.test.ts
