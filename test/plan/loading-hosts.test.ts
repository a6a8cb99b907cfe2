import assert from 'node:assert/strict';
import { test } from 'node:test';
import { encodeIdentity, type FileIdentity } from '../../src/checkpoint/file-identity.ts';
import { chooseLoadingHosts } from '../../src/plan/loading-hosts.ts';

const base: FileIdentity = {
  device: '1',
  inode: '10',
  bytes: 100,
  modified: '7',
  changed: '8',
  header: 'abc',
};
const file = (change: Partial<FileIdentity> = {}) => encodeIdentity({ ...base, ...change });
const files = [
  { path: '/m/1', identity: file() },
  { path: '/m/2', identity: file({ inode: '11' }) },
];
const seen = (identity: string) => ({ identity, problem: null });
const same = [seen(file()), seen(file({ inode: '11' }))];
const missing = { identity: null, problem: '/m/2 does not exist' };

test('all hosts that see the files of one file system load; devices and times of change differ among hosts', () => {
  const elsewhere = [
    seen(file({ device: '2', changed: '9' })),
    seen(file({ device: '2', inode: '11', changed: '9' })),
  ];
  const { hosts, others } = chooseLoadingHosts(files, [
    { host: 'a', files: same },
    { host: 'b', files: elsewhere },
  ]);
  assert.deepEqual(others, []);
  assert.deepEqual(
    hosts.map(({ host, identities }) => [host, identities]),
    [
      ['a', same.map(({ identity }) => identity)],
      ['b', elsewhere.map(({ identity }) => identity)],
    ],
  );
});

test('a host with another file, or none, does not load, and is named with the file', () => {
  for (const change of [{ inode: '12' }, { bytes: 101 }, { modified: '8' }, { header: 'x' }]) {
    const { hosts, others } = chooseLoadingHosts(files, [
      { host: 'b', files: [same[0]!, seen(file({ inode: '11', ...change }))] },
      { host: 'a', files: same },
      { host: 'c', files: [same[0]!, missing] },
    ]);
    assert.deepEqual(
      hosts.map(({ host }) => host),
      ['a'],
    );
    assert.deepEqual(others, [
      { host: 'b', reason: 'host b has another file under /m/2' },
      { host: 'c', reason: '/m/2 does not exist on host c' },
    ]);
  }
});

test('where no host sees the files whose headers were read, those of one host are loaded and never of two', () => {
  const copies = (inode: number) => [
    seen(file({ inode: `${inode}` })),
    seen(file({ inode: `${inode + 1}`, modified: '9' })),
  ];
  const { hosts, others } = chooseLoadingHosts(files, [
    { host: 'x', files: [same[0]!, seen(file({ bytes: 101 }))] },
    { host: 'b', files: copies(20) },
    { host: 'c', files: copies(30) },
    { host: 'd', files: copies(20) },
  ]);
  assert.deepEqual(
    hosts.map(({ host }) => host),
    ['b', 'd'],
  );
  assert.deepEqual(
    others.map(({ host }) => host),
    ['x', 'c'],
  );
});

test('no host that can load is an error with host and file', () => {
  const view = { host: 'b', files: [same[0]!, missing] };
  assert.throws(() => chooseLoadingHosts(files, [view]), {
    name: 'CheckpointError',
    message: 'no host can load it: /m/2 does not exist on host b',
  });
});
