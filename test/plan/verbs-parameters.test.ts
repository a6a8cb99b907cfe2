import assert from 'node:assert/strict';
import { test } from 'node:test';
import { verbsParametersOf } from '../../src/plan/verbs-parameters.ts';

test("RDMA connections are set up as NCCL's variables say", () => {
  const variables = {
    NCCL_IB_GID_INDEX: '3',
    NCCL_IB_TC: '106',
    NCCL_IB_SL: '3',
    NCCL_IB_PKEY: '0x1',
    NCCL_IB_TIMEOUT: ' 22 ',
    NCCL_IB_RETRY_CNT: '7',
    NCCL_IB_PCI_RELAXED_ORDERING: '0',
  };
  assert.deepEqual(verbsParametersOf(variables), {
    gidIndex: 3,
    trafficClass: 106,
    serviceLevel: 3,
    pkeyIndex: 1,
    timeout: 22,
    retries: 7,
    relaxedOrdering: false,
  });
});

test('what is not set, empty or -1 is left to weightcast', () => {
  const nothing = verbsParametersOf({});
  assert.ok(Object.values(nothing).every((value) => value === null));
  assert.deepEqual(verbsParametersOf({ NCCL_IB_TC: '', NCCL_IB_TIMEOUT: '-1' }), nothing);
  assert.equal(verbsParametersOf({ NCCL_IB_PCI_RELAXED_ORDERING: '2' }).relaxedOrdering, true);
});

for (const [name, value] of [
  ['NCCL_IB_TC', '256'],
  ['NCCL_IB_SL', '16'],
  ['NCCL_IB_PKEY', '65536'],
  ['NCCL_IB_TIMEOUT', '0'],
  ['NCCL_IB_RETRY_CNT', '8'],
  ['NCCL_IB_TC', 'high'],
  ['NCCL_IB_PCI_RELAXED_ORDERING', '3'],
]) {
  test(`${name}=${value} is refused by its name`, () => {
    assert.throws(() => verbsParametersOf({ [name!]: value }), {
      name: 'UsageError',
      message: new RegExp(`^${name} must be a whole number from .* to .*, not ${value}$`),
    });
  });
}
