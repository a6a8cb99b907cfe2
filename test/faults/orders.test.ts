import assert from 'node:assert/strict';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import type { Envelope, Transport } from '../../src/actors/kernel/index.ts';
import { OutOfDeviceMemoryError } from '../../src/errors.ts';
import { checkFaults, Faults } from '../../src/faults/faults.ts';
import { intercept, throwing } from '../../src/faults/intercept.ts';
import { parseOrders } from '../../src/faults/order.ts';
import { withMessageFaults } from '../../src/faults/transport.ts';
import { temporaryDirectory } from '../checkpoint/safetensors-files.ts';

const faultsOf = (text: string, rank = 0) => Faults.of({ WEIGHTCAST_FAULTS: text }, 'rank', rank)!;

test('without an order there are no faults, and ports and transports stay what they are', () => {
  assert.equal(Faults.of({}, 'rank', 0), null);
  const transport = {} as Transport;
  assert.equal(withMessageFaults(transport, null), transport);
});

for (const [text, message] of [
  ['rank-1', /expected PROCESS:POINT:ACTION.*such as rank-1:link-load:crash@3/],
  ['engine:start:crash', /there is no process engine, only owner, supervisor, agent, rank/],
  ['rank:lode:crash', /rank has no point lode, only signal, start, /],
  ['rank:device-allocate:drop', /rank:device-allocate can only .*refuse/],
  ['rank:open:delay', /delay=500/],
  ['supervisor-1:start:crash', /only ranks have numbers/],
  ['rank:open:crash@0', /counted from 1/],
] as const) {
  test(`${text} is refused with what there is`, () => {
    assert.throws(() => checkFaults({ WEIGHTCAST_FAULTS: text }), { name: 'UsageError', message });
  });
}

test('an order is for one process or all of a kind, and for one time or every time', () => {
  const [first, second] = parseOrders('rank-3:link-load:crash@2, supervisor:register:delay=50@*');
  assert.deepEqual([first!.rank, first!.time, second!.milliseconds, second!.time], [3, 2, 50, null]);
  const device = { allocate: (bytes: number) => bytes };
  const failure = (text: string) => new OutOfDeviceMemoryError(text);
  const points = { allocate: { point: 'device-allocate', failure, fail: throwing } };
  const faulty = intercept(device, faultsOf('rank-0:device-allocate:refuse@2'), points);
  assert.equal(faulty.allocate(1), 1);
  assert.throws(() => faulty.allocate(2), { name: 'OutOfDeviceMemoryError', message: /on purpose/ });
  assert.equal(faulty.allocate(3), 3);
  const other = intercept(device, faultsOf('rank-0:device-allocate:refuse', 1), points);
  assert.equal(other.allocate(1), 1);
});

test('an order in a file happens once, in whichever process is first, and is named beside it', (t) => {
  const file = join(temporaryDirectory(t), 'orders');
  const [first, second] = [faultsOf(`@${file}`, 0), faultsOf(`@${file}`, 1)];
  assert.equal(first.strike('open'), null);
  writeFileSync(file, 'rank:open:drop\nrank:stream:drop');
  assert.equal(first.strike('open')?.action, 'drop');
  assert.equal(second.strike('open'), null);
  assert.equal(readFileSync(`${file}.fired`, 'utf8'), `rank:open:drop ${process.pid}\n`);
  assert.equal(second.strike('stream')?.action, 'drop');
  assert.equal(existsSync(file), false);
});

/** What arrives at a process of what was sent to it. */
function arrivals(order: string) {
  const arrived: Envelope[] = [];
  let receive: (from: string, envelope: Envelope) => void = () => {};
  const inner: Transport = {
    node: 'rank-0~a',
    send: () => {},
    listen: (onEnvelope) => {
      receive = onEnvelope;
    },
    close: async () => {},
  };
  withMessageFaults(inner, faultsOf(order)).listen(
    (_, envelope) => arrived.push(envelope),
    () => {},
  );
  const to = { node: 'rank-0~a', name: 'rank', generation: 0 };
  const tell = (epoch: number) =>
    receive('supervisor~a', { kind: 'tell', to, from: null, body: { type: 'start-loading', epoch } });
  const bodies = () => arrived.map((one) => ('body' in one ? one.body : null));
  return { tell, bodies };
}

test('messages are dropped, arrive twice, without their fields, or late and in order', async () => {
  const message = (epoch: number) => ({ type: 'start-loading', epoch });
  const expected = {
    'rank:start-loading:drop': [message(2)],
    'rank:start-loading:duplicate': [message(1), message(1), message(2)],
    'rank:start-loading:corrupt': [{ type: 'start-loading' }, message(2)],
    'rank:start-loading:delay=20': [message(1), message(2)],
  };
  for (const [order, bodies] of Object.entries(expected)) {
    const arrived = arrivals(order);
    for (const epoch of [1, 2]) arrived.tell(epoch);
    if (order.includes('delay')) assert.deepEqual(arrived.bodies(), []);
    while (arrived.bodies().length < bodies.length) await new Promise((resolve) => setTimeout(resolve, 5));
    assert.deepEqual(arrived.bodies(), bodies);
  }
});
