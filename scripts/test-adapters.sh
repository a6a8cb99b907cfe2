#!/usr/bin/env bash
# Tests of the adapters for trainers with the real vLLM, TRL and verl, on the CPU. The first time it installs vLLM into the
# user's cache, 9 GB (test/engines-real/install-vllm.sh), and what TRL and verl add to it. Arguments: test files and options
# of scripts/test.mjs. Ends with 77 if a package cannot be had.
set -euo pipefail
cd "$(dirname "$0")/.."
WEIGHTCAST_VLLM_PYTHON=$(bash test/engines-real/install-vllm.sh)
WEIGHTCAST_TRL_PYTHON=$(bash test/install-python.sh test/adapters/requirements-trl.txt "$WEIGHTCAST_VLLM_PYTHON")
WEIGHTCAST_VERL_PYTHON=$(bash test/install-python.sh test/adapters/requirements-verl.txt "$WEIGHTCAST_VLLM_PYTHON")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# As users install it: vLLM finds us by an entry point, which a source tree does not have.
"$WEIGHTCAST_VLLM_PYTHON" -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation \
  --target "$scratch/packages" ./python
export WEIGHTCAST_VLLM_PYTHON WEIGHTCAST_TRL_PYTHON WEIGHTCAST_VERL_PYTHON
export WEIGHTCAST_ADAPTERS_PACKAGES=$scratch/packages
node scripts/compile-tests.mjs
if [ $# -eq 0 ]; then set -- test/adapters; fi
nice -n 10 node scripts/test.mjs --test-concurrency=1 --test-timeout=600000 "$@"
