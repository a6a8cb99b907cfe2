import assert from 'node:assert/strict';
import { test } from 'node:test';
import { gidIndexOf, nicsOfRank, type RdmaPort, selectNics } from '../../src/plan/nic-selection.ts';

const port = (name: string, isActive = true): RdmaPort => {
  const [device, number] = name.split(':');
  return { device: device!, port: Number(number ?? 1), isActive };
};
const machine = ['mlx5_0', 'mlx5_1', 'mlx5_2', 'mlx5_10', 'bond0', 'dual:1', 'dual:2'].map((name) =>
  port(name),
);

const chosen = (environment: Record<string, string>, ports = machine) =>
  selectNics(ports, environment).ports.map(({ device, port }) =>
    device === 'dual' ? `dual:${port}` : device,
  );

test('without a variable every active port is used, in the order found', () => {
  const ports = [port('b'), port('a', false), port('c')];
  assert.deepEqual(selectNics(ports, {}), { ports: [ports[0], ports[2]], variable: null });
  assert.deepEqual(chosen({ NCCL_IB_HCA: '  ' }), chosen({}));
});

for (const [value, expected] of [
  ['mlx5', ['mlx5_0', 'mlx5_1', 'mlx5_2', 'mlx5_10']],
  ['mlx5_1', ['mlx5_1', 'mlx5_10']],
  ['=mlx5_1', ['mlx5_1']],
  ['=mlx5_10,mlx5_0', ['mlx5_0', 'mlx5_10']],
  [' mlx5_2 , bond0 ', ['mlx5_2', 'bond0']],
  ['^mlx5', ['bond0', 'dual:1', 'dual:2']],
  ['^mlx5_1', ['mlx5_0', 'mlx5_2', 'bond0', 'dual:1', 'dual:2']],
  ['^=mlx5_1', ['mlx5_0', 'mlx5_2', 'mlx5_10', 'bond0', 'dual:1', 'dual:2']],
  ['dual', ['dual:1', 'dual:2']],
  ['dual:2', ['dual:2']],
  ['=dual:1,bond0:1', ['bond0', 'dual:1']],
  ['^dual:1,mlx5,bond', ['dual:2']],
  ['bond,nothing_like_it', ['bond0']],
  ['^m,b,d', []],
] as const) {
  test(`NCCL_IB_HCA and WEIGHTCAST_RDMA_DEVICES: ${value} means to us what it means to NCCL`, () => {
    assert.deepEqual(chosen({ NCCL_IB_HCA: value }), expected);
    assert.deepEqual(chosen({ WEIGHTCAST_RDMA_DEVICES: value }), expected);
  });
}

test('PS_P2P_STORE_RDMA_DEVICES lists devices by their names, and its order counts', () => {
  assert.deepEqual(chosen({ PS_P2P_STORE_RDMA_DEVICES: 'mlx5_2,mlx5_1' }), ['mlx5_2', 'mlx5_1']);
  assert.deepEqual(chosen({ PS_P2P_STORE_RDMA_DEVICES: 'bond,mlx5_0,bond0' }), ['bond0', 'mlx5_0']);
  assert.deepEqual(chosen({ PS_P2P_STORE_RDMA_DEVICES: '^mlx5_1,dual' }), ['mlx5_0', 'mlx5_2', 'bond0']);
});

test('of several variables ours comes first, then that of checkpoint-engine, then that of NCCL', () => {
  const all = {
    WEIGHTCAST_RDMA_DEVICES: '=mlx5_0',
    PS_P2P_STORE_RDMA_DEVICES: 'mlx5_1',
    NCCL_IB_HCA: '=mlx5_2',
  };
  assert.deepEqual(chosen(all), ['mlx5_0']);
  assert.deepEqual(chosen({ ...all, WEIGHTCAST_RDMA_DEVICES: '' }), ['mlx5_1']);
  assert.equal(selectNics(machine, all).variable, 'WEIGHTCAST_RDMA_DEVICES');
});

test('inactive ports are passed over, and a list that leaves nothing is an error that names the variable', () => {
  const ports = [port('mlx5_0', false), port('mlx5_1')];
  assert.deepEqual(chosen({ NCCL_IB_HCA: 'mlx5' }, ports), ['mlx5_1']);
  assert.throws(() => selectNics(ports, { NCCL_IB_HCA: '=mlx5_0' }), {
    name: 'UsageError',
    message: 'NCCL_IB_HCA==mlx5_0 names only ports that are not active (found: mlx5_0:1, mlx5_1:1)',
  });
  assert.throws(() => selectNics([], { WEIGHTCAST_RDMA_DEVICES: 'mlx5_0' }), {
    message: 'WEIGHTCAST_RDMA_DEVICES=mlx5_0 names no RDMA device of this host (found: none)',
  });
});

test('what is no list of devices is refused, naming variable and place', () => {
  for (const value of ['mlx5_0:x', '=^mlx5_0', 'mlx5 0', 'mlx5_0:1:2']) {
    assert.throws(() => selectNics(machine, { NCCL_IB_HCA: value }), {
      name: 'UsageError',
      message: /^NCCL_IB_HCA must list devices/,
    });
  }
});

test('at most 32 ports are used', () => {
  const many = Array.from({ length: 40 }, (_, index) => port(`m${index}`));
  assert.equal(selectNics(many, {}).ports.length, 32);
  assert.equal(selectNics(many, { NCCL_IB_HCA: 'm' }).ports.length, 32);
});

const spread = (ports: number, ranks: number) => {
  const selection = { ports: Array.from({ length: ports }, (_, index) => port(`m${index}`)), variable: null };
  return Array.from({ length: ranks }, (_, rank) =>
    nicsOfRank(selection, rank, ranks).map(({ device }) => Number(device.slice(1))),
  );
};

test('ranks are spread over ports as checkpoint-engine does it', () => {
  assert.deepEqual(spread(2, 8), [[0], [0], [0], [0], [1], [1], [1], [1]]);
  assert.deepEqual(spread(4, 4), [[0], [1], [2], [3]]);
  assert.deepEqual(spread(8, 2), [
    [0, 1, 2, 3],
    [4, 5, 6, 7],
  ]);
  assert.deepEqual(spread(0, 2), [[], []]);
});

test('every port is used and every rank served, alike up to one port, whatever the numbers', () => {
  for (let ports = 1; ports <= 16; ports += 1) {
    for (let ranks = 1; ranks <= 16; ranks += 1) {
      const dealt = spread(ports, ranks);
      assert.equal(new Set(dealt.flat()).size, ports);
      const counts = dealt.map(({ length }) => length);
      assert.ok(Math.min(...counts) >= 1);
      assert.ok(Math.max(...counts) - Math.min(...counts) <= 1);
      const sharing = dealt.flat().map((port) => dealt.filter((own) => own.includes(port)).length);
      assert.ok(Math.max(...sharing) - Math.min(...sharing) <= 1);
    }
  }
});

test('a GID index comes from our variable or that of NCCL', () => {
  assert.equal(gidIndexOf({}), null);
  assert.equal(gidIndexOf({ NCCL_IB_GID_INDEX: '3' }), 3);
  assert.equal(gidIndexOf({ NCCL_IB_GID_INDEX: '-1' }), null);
  assert.equal(gidIndexOf({ NCCL_IB_GID_INDEX: '3', WEIGHTCAST_RDMA_GID_INDEX: '0' }), 0);
  for (const value of ['x', '256', '1.5', '-2']) {
    assert.throws(() => gidIndexOf({ NCCL_IB_GID_INDEX: value }), {
      name: 'UsageError',
      message: /NCCL_IB_GID_INDEX/,
    });
  }
});
