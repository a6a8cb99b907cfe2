import assert from 'node:assert/strict';
import { test } from 'node:test';
import { encode } from '@msgpack/msgpack';
import { bindLink, buffer, Fixture, gate, rawRank, receive, soon, tensors } from './harness.ts';

test('a rank that is killed ends the exchange at once, and the buffer is released', async (t) => {
  const rank = new Fixture(t, 'link-rank');
  const { address } = await rank.next<{ address: string }>();
  const { calls, received } = receive(address);
  await rank.next();
  await rank.kill();
  await assert.rejects(received, { name: 'PeerLostError', message: `the rank at ${address} has vanished` });
  assert.deepEqual(calls, ['open', 'load', 'release']);
});

test('a rank that vanishes during a copy ends the exchange only after the copy', async (t) => {
  const rank = new Fixture(t, 'link-rank');
  const { address } = await rank.next<{ address: string }>();
  const copying = gate();
  const copied = gate();
  const order: string[] = [];
  const { received } = receive(address, {
    async load() {
      copying.open();
      await copied.opened;
      order.push('copied');
    },
    release: () => void order.push('released'),
  });
  received.catch(() => order.push('ended'));
  await copying.opened;
  await rank.kill();
  await new Promise((resolve) => setTimeout(resolve, soon));
  assert.deepEqual(order, []);
  copied.open();
  await assert.rejects(received, { name: 'PeerLostError' });
  assert.deepEqual(order, ['copied', 'released', 'ended']);
});

test('connecting to an address where no rank listens fails soon', async () => {
  const { calls, received } = receive('ipc://@weightcast-nobody.sock');
  await assert.rejects(received, {
    name: 'PeerLostError',
    message: 'no rank listens at ipc://@weightcast-nobody.sock',
  });
  assert.deepEqual(calls, []);
});

test('a silent rank ends the exchange at its deadline, or later where the rank has asked for that', async (t) => {
  for (const [asked, waited] of [
    [undefined, 300],
    [0.5, 500],
    [0.001, 300],
  ] as const) {
    const link = await bindLink(t, asked && { silenceSeconds: asked });
    const { calls, received } = receive(link.address, {}, { timeoutMilliseconds: soon });
    await link.open(buffer);
    await assert.rejects(received, {
      name: 'DeadlineError',
      message: `the rank at ${link.address} was silent for ${waited} ms`,
    });
    assert.deepEqual(calls, ['open', 'release']);
  }
});

test('an exchange for another device is refused on both sides', async (t) => {
  const link = await bindLink(t);
  const { calls, received } = receive(link.address, {}, { deviceUuid: 'HOST-test-1' });
  const message = /the rank is on device HOST-test-0, this worker on HOST-test-1/;
  await assert.rejects(link.open(buffer), message);
  link.close();
  await assert.rejects(received, { name: 'WorkerLinkError', message });
  assert.deepEqual(calls, []);
});

const open = {
  type: 'open',
  protocol: 1,
  device: 'HOST-test-0',
  epoch: 7,
  version: 'v',
  report: true,
  ...buffer,
};
const load = { type: 'load', tensors };
const refused: [string, unknown[], RegExp, string[]][] = [
  ['a bucket before the buffer', [load], /asked to load before it opened/, []],
  ['release before the buffer', [{ type: 'release' }], /asked to release before it opened/, []],
  ['a second buffer', [open, open], /opened a second link buffer/, ['open', 'release']],
  [
    'finish before release',
    [open, { type: 'finish' }],
    /finish before it opened and released/,
    ['open', 'release'],
  ],
  ['finish before the buffer', [{ type: 'finish' }], /finish before it opened and released/, []],
  ['a bucket after release', [open, { type: 'release' }, load], /load before it opened/, ['open', 'release']],
  [
    'a second exchange',
    [open, { type: 'release' }, open],
    /opened a second link buffer/,
    ['open', 'release'],
  ],
  ['a later protocol', [{ ...open, protocol: 4 }], /speaks version 4, this worker 2 of the worker link/, []],
  ['an unknown request', [{ type: 'sleep' }], /request has the wrong form: type/, []],
  [
    'a shape of fractions',
    [open, { type: 'load', tensors: [{ ...tensors[0], shape: [0.5] }] }],
    /tensors\.0\.shape\.0/,
    ['open', 'release'],
  ],
];
for (const [name, requests, message, expectedCalls] of refused) {
  test(`a rank that breaks the protocol gets an error: ${name}`, async (t) => {
    const rank = await rawRank(t);
    const { calls, received } = receive(rank.address);
    for (const [turn, request] of requests.entries()) {
      const reply = await rank.ask(encode(request));
      assert.equal(reply.ok, turn < requests.length - 1);
      if (!reply.ok) assert.match(reply.error, message);
    }
    rank.close();
    await assert.rejects(received, { name: 'ProtocolError', message });
    assert.deepEqual(calls, expectedCalls);
  });
}

const thrownIn = {
  open: ['open'],
  load: ['open', 'load', 'release'],
  release: ['open', 'load', 'release'],
  finish: ['open', 'load', 'release', 'finish'],
} as const;
for (const [step, expectedCalls] of Object.entries(thrownIn)) {
  test(`an error of the receiver in ${step} reaches the rank, and the buffer is released once`, async (t) => {
    const link = await bindLink(t);
    const fault = () => {
      throw new RangeError(`no ${step} today`);
    };
    const { calls, received } = receive(link.address, { [step]: fault });
    const update = async () => {
      await link.open(buffer);
      await link.load(tensors);
      await link.release();
      await link.finish();
    };
    await assert.rejects(update(), {
      name: 'WorkerLinkError',
      message: new RegExp(`: RangeError: no ${step} today$`),
    });
    await link.abort('the worker failed');
    await assert.rejects(received, { name: 'RangeError', message: `no ${step} today` });
    assert.deepEqual(calls, expectedCalls);
  });
}
