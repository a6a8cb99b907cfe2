#!/usr/bin/env bash
# The fabric over real verbs: its tests in a virtual machine with soft-RoCE. Compiled first, because the emulated
# processor is slow.
set -euo pipefail
cd "$(dirname "$0")/.."
npx --no-install tsc -p test/rdma-vm/tsconfig.json
compiled=build/rdma-vm/test
exec scripts/rdma-vm.sh env \
  WEIGHTCAST_ADDON="$PWD/build/Release/weightcast.node" WEIGHTCAST_TEST_FABRICS=verbs \
  node --test --test-concurrency=2 --test-reporter="$PWD/scripts/quiet-reporter.mjs" \
  "$compiled"/native/fabric-{read,failures}.test.js "$compiled"/rdma-vm/*.test.js
