import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isAddress, withNumericAddresses } from '../../src/cluster/addresses.ts';
import { patience } from '../patience.ts';

const known: Readonly<Record<string, readonly string[]>> = {
  'node-1': ['127.0.1.1', '10.0.0.1', 'fd00::1'],
  'node-2.cluster': ['fd00::2'],
  alone: ['127.0.0.1'],
};
const find = async (name: string) => {
  const addresses = known[name];
  if (addresses === undefined) throw new Error(`getaddrinfo ENOTFOUND ${name}`);
  return addresses;
};
const numeric = (options: Parameters<typeof withNumericAddresses>[0]) =>
  withNumericAddresses(options, patience, find);

test('names of hosts become their addresses, loopback only where there is no other', async () => {
  const options = {
    ranks: 2,
    listen: 'tcp://node-2.cluster:7000',
    fabricAddresses: ['node-1', '10.0.0.1', 'fe80::1%eth0'],
    hosts: { b: { launcher: ['ssh', 'b'], fabricAddresses: ['alone'] }, c: { launcher: [] } },
  };
  assert.deepEqual(await numeric(options), {
    ranks: 2,
    listen: 'tcp://[fd00::2]:7000',
    fabricAddresses: ['10.0.0.1', 'fd00::1', 'fe80::1%eth0'],
    hosts: { b: { launcher: ['ssh', 'b'], fabricAddresses: ['127.0.0.1'] }, c: { launcher: [] } },
  });
  assert.equal((await numeric({ listen: 'tcp://node-1:*' })).listen, 'tcp://10.0.0.1:*');
});

test('what ZeroMQ binds to by itself stays', async () => {
  for (const listen of ['tcp://*:7000', 'tcp://10.0.0.1:*', 'tcp://[fe80::1%eth0]:7000', 'tcp://lo:7000'])
    assert.equal((await numeric({ listen })).listen, listen);
});

test('a name that is not found, or not in time, is an error with the option and the name', async () => {
  await assert.rejects(numeric({ hosts: { b: { launcher: [], fabricAddresses: ['node-9'] } } }), {
    name: 'UsageError',
    message: 'hosts.b.fabricAddresses: the host node-9 is not found: getaddrinfo ENOTFOUND node-9',
  });
  const never = () => new Promise<never>(() => {});
  await assert.rejects(withNumericAddresses({ listen: 'tcp://node-1:7000' }, 10, never), {
    name: 'UsageError',
    message: /^listen: the host node-1 is not found: no answer in 0\.01 s \(startTimeoutMilliseconds\)/,
  });
});

test('an address is numeric, or can be the name of a host', () => {
  for (const good of ['10.0.0.1', 'fd00::1', 'fe80::1%eth0', 'node-1', 'a.b.example', 'GPU_7'])
    assert.ok(isAddress(good), good);
  for (const bad of [
    '',
    '10.0.0.256',
    '10.0.0',
    'node 1',
    '-a',
    'a/b',
    'node-1:7000',
    '[fd00::1]',
    'fd00::1::',
  ])
    assert.ok(!isAddress(bad), bad);
});
