#!/usr/bin/env bash
# The fabric over real verbs: its tests, and then whole scenarios with it, in a virtual machine with soft-RoCE. Compiled
# first, because the emulated processor is slow.
set -euo pipefail
cd "$(dirname "$0")/.."
npx --no-install tsc -p test/rdma-vm/tsconfig.json
# One after the other: some tests look at all that processes hold of the devices, or take a link down.
exec scripts/rdma-vm.sh env \
  WEIGHTCAST_ADDON="$PWD/build/Release/weightcast.node" WEIGHTCAST_TEST_FABRICS=verbs \
  bash -euc 'cd build/rdma-vm/test
    run() { node --test --test-concurrency=2 --test-reporter="$OLDPWD/scripts/quiet-reporter.mjs" "$@"; }
    run native/fabric-{read,failures}.test.js rdma-vm/verbs.test.js
    run rdma-vm/scenarios.test.js'
