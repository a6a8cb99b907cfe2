import assert from 'node:assert/strict';
import { test } from 'node:test';
import { SimulatedClock } from '../../simulation/clock.ts';
import { SimulatedNetwork } from '../../simulation/network.ts';
import { SeededRandom } from '../../simulation/random.ts';
import type { Envelope, PeerEvent } from '../../src/actors/kernel/index.ts';

function message(body: unknown): Envelope {
  return { kind: 'tell', to: { node: 'there', name: 'actor', generation: 1 }, from: null, body };
}

/** A hub with two spokes; records what each node receives. */
function star() {
  const clock = new SimulatedClock();
  const random = new SeededRandom(1);
  const network = new SimulatedNetwork({ clock, delay: () => random.between(0, 100) });
  const received = new Map<string, unknown[]>();
  const events = new Map<string, PeerEvent[]>();
  const transports = ['hub', 'one', 'two'].map((node) => {
    const transport = network.join(node, node === 'hub' ? [] : ['hub']);
    received.set(node, []);
    events.set(node, []);
    transport.listen(
      (_from, envelope) => received.get(node)!.push((envelope as { body?: unknown }).body),
      (event) => events.get(node)!.push(event),
    );
    return transport;
  });
  const [hub, one, two] = transports as [
    (typeof transports)[0],
    (typeof transports)[0],
    (typeof transports)[0],
  ];
  return { clock, network, received, events, hub, one, two };
}

test('messages from one sender arrive in order, whatever their delays', async () => {
  const { clock, received, one } = star();
  const bodies = Array.from({ length: 200 }, (_, index) => index);
  for (const body of bodies) one.send('hub', message(body));
  await clock.advance(200);
  assert.deepEqual(received.get('hub'), bodies);
});

test('spokes can send to the hub only', () => {
  const { one } = star();
  assert.throws(() => one.send('two', message(1)), { code: 'WEIGHTCAST_PEER_LOST' });
});

test('messages are copied, and rejected if they cannot be encoded or are too large', async () => {
  const { clock, received, one } = star();
  const body = { values: new Float64Array([1, 2]) };
  one.send('hub', message(body));
  body.values[0] = 7;
  await clock.advance(100);
  assert.deepEqual(received.get('hub'), [{ values: new Float64Array([1, 2]) }]);
  assert.throws(() => one.send('hub', message(new Map())), { code: 'WEIGHTCAST_PROTOCOL' });
  one.messageLimit = 1_000;
  assert.throws(() => one.send('hub', message(new Uint8Array(1_001))), {
    code: 'WEIGHTCAST_PROTOCOL',
  });
});

test('a session that ended at one end drops what the other end still sends, and delivers what was sent before', async () => {
  const { clock, network, received, events, hub, one } = star();
  hub.send('one', message('before'));
  one.send('hub', message('lost in flight'));
  network.endSession('hub', 'one', 'silent');
  one.send('hub', message('dropped'));
  assert.throws(() => hub.send('one', message('after')), { code: 'WEIGHTCAST_PEER_LOST' });
  await clock.advance(100);
  assert.deepEqual(received.get('one'), ['before']);
  assert.deepEqual(received.get('hub'), []);
  assert.deepEqual(
    events.get('hub')!.filter(({ state }) => state === 'down'),
    [{ node: 'one', state: 'down', reason: 'silent' }],
  );
  assert.ok(events.get('one')!.every(({ state }) => state === 'up'));
});

test('messages sent before a node vanished still arrive', async () => {
  const { clock, network, received, two } = star();
  two.send('hub', message('last message'));
  network.vanish('two');
  await clock.advance(100);
  assert.deepEqual(received.get('hub'), ['last message']);
});
