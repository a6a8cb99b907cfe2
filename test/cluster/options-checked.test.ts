/** Input is checked whole before anything is started. */
import assert from 'node:assert/strict';
import { hostname } from 'node:os';
import { test } from 'node:test';
import { checkOptions } from '../../src/cluster/options.ts';
import { checkInstance, Workers } from '../../src/cluster/workers.ts';
import { Cluster } from '../../src/index.ts';
import { directoriesOf } from './harness.ts';

const endpoint = 'http://127.0.0.1:8000';
const instance = { name: 'a', endpoint, ranks: [0] };
const options = { ranks: 1, instances: [instance] };

const wrongOptions: [unknown, RegExp][] = [
  [null, /^Cluster.start: /],
  [{ ...options, ranks: '1' }, /invalid ranks/],
  [{ ...options, instances: 'a' }, /invalid instances/],
  [{ ...options, instances: [null] }, /^an instance: /],
  [{ ...options, hosts: 'vm' }, /invalid hosts/],
  [{ ...options, hosts: { b: { launcher: 'ssh b' } } }, /invalid hosts\.b\.launcher/],
  [
    { ...options, hosts: { b: { launcher: [], fabricAddresses: ['node 2'] } } },
    /hosts\.b\.fabricAddresses: "node 2"/,
  ],
  [{ ...options, hosts: { 'a/b': { launcher: [] } } }, /a host's name has .*not "a\/b"/],
  [{ ...options, hosts: { [hostname()]: { launcher: [] } } }, /is the host that the cluster starts on/],
  [{ ...options, listen: '10.0.0.1:7000' }, /invalid listen: it must be tcp/],
  [{ ...options, fabricAddresses: ['10.0.0.256'] }, /fabricAddresses: "10.0.0.256" is neither an address/],
  [{ ...options, fabricAddresses: '10.0.0.1' }, /invalid fabricAddresses/],
  [{ ...options, spareCheckpoints: 17 }, /invalid spareCheckpoints/],
  [{ ...options, startTimeoutMilliseconds: 0 }, /invalid startTimeoutMilliseconds/],
  [{ ...options, stopTimeoutMilliseconds: 10 }, /invalid stopTimeoutMilliseconds/],
  [{ ...options, onProgress: true }, /invalid onProgress: it must be a function/],
  [{ ...options, device: { kind: 'host' } }, /device/],
  [{ ...options, devices: { kind: 'tpu' } }, /devices/],
  [{ ...options, devices: null }, /devices/],
];

test('refused: a WEIGHTCAST_SILENCE_SECONDS that is no number of seconds', (t) => {
  t.after(() => delete process.env.WEIGHTCAST_SILENCE_SECONDS);
  for (const value of ['', '1', 'ten', '-5', '1e9']) {
    process.env.WEIGHTCAST_SILENCE_SECONDS = value;
    assert.throws(() => checkOptions(options), {
      name: 'UsageError',
      message: /^WEIGHTCAST_SILENCE_SECONDS is /,
    });
  }
  process.env.WEIGHTCAST_SILENCE_SECONDS = '60';
  checkOptions(options);
});

test('refused: a WEIGHTCAST_LOG that is no level, before anything is made', async (t) => {
  t.after(() => delete process.env.WEIGHTCAST_LOG);
  process.env.WEIGHTCAST_LOG = 'loud';
  await assert.rejects(Cluster.start(options), { name: 'UsageError', message: /^WEIGHTCAST_LOG is "loud"/ });
  assert.deepEqual(directoriesOf(process.pid), []);
});

test('refused: WEIGHTCAST_WORKER_UIDS that are no numbers of users', (t) => {
  t.after(() => delete process.env.WEIGHTCAST_WORKER_UIDS);
  for (const value of ['me', '1000,', '-1', '1000 1001', '4294967296']) {
    process.env.WEIGHTCAST_WORKER_UIDS = value;
    assert.throws(() => checkOptions(options), {
      name: 'UsageError',
      message: /^WEIGHTCAST_WORKER_UIDS is /,
    });
  }
  process.env.WEIGHTCAST_WORKER_UIDS = '1000,1001';
  checkOptions(options);
});

const wrongInstances: [unknown, RegExp][] = [
  [null, /^an instance: /],
  ['a', /^an instance: /],
  [{ ...instance, name: 'a\nb' }, /^instance a\\u000ab: invalid name: it has characters that end lines/],
  [{ ...instance, name: 'a\u2028' }, /invalid name/],
  [{ ...instance, name: '' }, /invalid name/],
  [{ ...instance, name: 7 }, /^an instance: invalid name/],
  [{ ...instance, endpoint: undefined }, /^instance a: invalid endpoint/],
  [{ ...instance, endpoint: `${endpoint}/v1` }, /invalid endpoint/],
  [{ ...instance, ranks: 0 }, /^instance a: invalid ranks/],
  [{ ...instance, ranks: [] }, /^instance a: invalid ranks/],
  [{ ...instance, ranks: [0.5] }, /^instance a: invalid ranks\.0/],
  [{ ...instance, ranks: [0, 0] }, /a rank twice/],
  [{ ...instance, apiKey: 7 }, /^instance a: invalid apiKey/],
  [{ ...instance, apiKey: 'key\n' }, /API key/],
  [
    { ...instance, host: 'nowhere' },
    /^instance a has workers on host nowhere, which the option hosts does not/,
  ],
  [{ name: 'a', endpoint }, /^instance a has neither ranks nor devices/],
  [{ ...instance, devices: ['7'] }, /^instance a: invalid devices\.0: a device is an index or a UUID/],
  [{ ...instance, devices: [0, 1] }, /^instance a has 2 devices for 1 ranks$/],
  [{ ...instance, workers: [{ devices: [0] }] }, /^instance a has both workers and ranks/],
  [{ name: 'a', endpoint, workers: [] }, /^instance a: invalid workers/],
  [{ name: 'a', endpoint, workers: [{ gpus: [0] }] }, /^instance a: .*gpus/],
  [
    { name: 'a', endpoint, workers: [{ host: 'b', devices: [0] }] },
    /^instance a has workers on host b, which/,
  ],
  [{ name: 'a', endpoint, workers: [{ ranks: [0] }, { ranks: [0] }] }, /^instance a has a rank twice/],
  [{ ...instance, host: 'toString' }, /host toString, which the option hosts does not have/],
  [{ ...instance, puase: 'wait' }, /^instance a: .*puase/],
  [{ ...instance, pause: 'retract' }, /pause of vllm is "retract"/],
  [{ ...instance, resetCache: 'yes' }, /^instance a: invalid resetCache/],
];

for (const [wrong, message] of wrongOptions) {
  test(`refused: ${JSON.stringify(wrong)} as options of a cluster`, () => {
    assert.throws(() => checkOptions(wrong as never), { name: 'UsageError', message });
  });
}

for (const [wrong, message] of wrongInstances) {
  test(`refused: ${JSON.stringify(wrong)} as an instance`, () => {
    assert.throws(() => checkInstance(wrong as never, {}), { name: 'UsageError', message });
  });
}

test('what is right is accepted, whatever its name', () => {
  const hosts = { 'node-2': { launcher: ['ssh', 'node-2'], fabricAddresses: ['10.0.0.2', 'node-2'] } };
  checkOptions({
    ...options,
    hosts,
    listen: 'tcp://[fd00::1]:*',
    fabricAddresses: ['10.0.0.1', 'fe80::1%eth0'],
    onProgress: () => {},
  });
  checkInstance({ ...instance, name: 'node-2:8000 / ü', host: 'node-2', hasDraftModel: true }, hosts);
});

test('ranks without numbers get the lowest that are free, and no two workers have a device', () => {
  const workers = new Workers();
  const places = (instances: Parameters<Workers['take']>[0]) =>
    workers.take(instances).map((one) => one.workers.map(({ rank, host, device }) => [rank, host, device]));
  const over = { name: 'over', endpoint, workers: [{ devices: [0, 1] }, { host: 'b', devices: [0, 1] }] };
  assert.deepEqual(places([over, { ...instance, ranks: [1], devices: [2] }]), [
    [
      [0, undefined, 0],
      [2, undefined, 1],
      [3, 'b', 0],
      [4, 'b', 1],
    ],
    [[1, undefined, 2]],
  ]);
  const refused = (given: object, message: string) =>
    assert.throws(() => workers.take([{ endpoint, name: 'c', ...given }]), { name: 'UsageError', message });
  refused({ name: 'over', ranks: [9] }, 'the cluster has an instance over already');
  refused(
    { ranks: [4] },
    'rank 4 is in the cluster already: give this instance other ranks, and say which devices they are on',
  );
  refused({ host: 'b', devices: [1] }, 'instances over and c both have a worker on device 1 of host b');
  refused(
    { host: hostname(), devices: [2] },
    'instances a and c both have a worker on device 2 of this host',
  );
  refused({ devices: [5, 5] }, 'instance c has device 5 of this host twice');
  assert.deepEqual(places([{ name: 'c', endpoint, host: 'c', devices: [0] }]), [[[5, 'c', 0]]]);
});
