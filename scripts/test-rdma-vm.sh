#!/usr/bin/env bash
# The fabric over real verbs: its tests, and then whole scenarios with it, in a virtual machine with soft-RoCE. Compiled
# first, because the emulated processor is slow.
set -euo pipefail
cd "$(dirname "$0")/.."
node scripts/compile-tests.mjs
# One after the other: some tests look at all that processes hold of the devices, or take a link down.
# The machine may stand still for long where others use this one's processors.
exec scripts/rdma-vm.sh env WEIGHTCAST_TEST_FABRICS=verbs WEIGHTCAST_SILENCE_SECONDS=120 bash -euc '
  run() { node scripts/test.mjs --test-concurrency=1 --test-timeout=600000 "$@"; }
  run test/native/fabric-{read,failures}.test.ts test/rdma-vm/verbs.test.ts
  run test/rdma-vm/scenarios.test.ts'
