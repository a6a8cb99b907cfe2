import assert from 'node:assert/strict';
import { test } from 'node:test';
import { SimulatedClock } from '../../simulation/clock.ts';
import { SimulatedNetwork } from '../../simulation/network.ts';
import { SeededRandom } from '../../simulation/random.ts';
import type { Envelope, PeerEvent } from '../../src/actors/kernel/index.ts';

function message(body: unknown): Envelope {
  return { kind: 'tell', to: { node: 'there', name: 'actor', generation: 1 }, from: null, body };
}

/** A hub with two spokes, and what each of them hears. */
function star() {
  const clock = new SimulatedClock();
  const random = new SeededRandom(1);
  const network = new SimulatedNetwork({ clock, delay: () => random.between(0, 100) });
  const heard = new Map<string, unknown[]>();
  const events = new Map<string, PeerEvent[]>();
  const transports = ['hub', 'one', 'two'].map((node) => {
    const transport = network.join(node, node === 'hub' ? [] : ['hub']);
    heard.set(node, []);
    events.set(node, []);
    transport.listen(
      (_from, envelope) => heard.get(node)!.push((envelope as { body?: unknown }).body),
      (event) => events.get(node)!.push(event),
    );
    return transport;
  });
  const [hub, one, two] = transports as [
    (typeof transports)[0],
    (typeof transports)[0],
    (typeof transports)[0],
  ];
  return { clock, network, heard, events, hub, one, two };
}

test('messages of one sender arrive in order, whatever their delays', async () => {
  const { clock, heard, one } = star();
  const bodies = Array.from({ length: 200 }, (_, index) => index);
  for (const body of bodies) one.send('hub', message(body));
  await clock.advance(200);
  assert.deepEqual(heard.get('hub'), bodies);
});

test('spokes reach the hub and nobody else', () => {
  const { one } = star();
  assert.throws(() => one.send('two', message(1)), { code: 'WEIGHTCAST_PEER_LOST' });
});

test('what travels is copied and has to have a form that travels', async () => {
  const { clock, heard, one } = star();
  const body = { values: new Float64Array([1, 2]) };
  one.send('hub', message(body));
  body.values[0] = 7;
  await clock.advance(100);
  assert.deepEqual(heard.get('hub'), [{ values: new Float64Array([1, 2]) }]);
  assert.throws(() => one.send('hub', message(new Map())), { code: 'WEIGHTCAST_PROTOCOL' });
  assert.throws(() => one.send('hub', message(new Uint8Array(17 * 2 ** 20))), {
    code: 'WEIGHTCAST_PROTOCOL',
  });
});

test('a session that ended at one end swallows what the other still sends, and delivers what was sent before', async () => {
  const { clock, network, heard, events, hub, one } = star();
  hub.send('one', message('before'));
  one.send('hub', message('lost on its way'));
  network.endSession('hub', 'one', 'silent');
  one.send('hub', message('into the void'));
  assert.throws(() => hub.send('one', message('after')), { code: 'WEIGHTCAST_PEER_LOST' });
  await clock.advance(100);
  assert.deepEqual(heard.get('one'), ['before']);
  assert.deepEqual(heard.get('hub'), []);
  assert.deepEqual(
    events.get('hub')!.filter(({ state }) => state === 'down'),
    [{ node: 'one', state: 'down', reason: 'silent' }],
  );
  assert.ok(events.get('one')!.every(({ state }) => state === 'up'));
});

test('what a node sent before it vanished still arrives, until its peer knows', async () => {
  const { clock, network, heard, two } = star();
  two.send('hub', message('last words'));
  network.vanish('two');
  await clock.advance(100);
  assert.deepEqual(heard.get('hub'), ['last words']);
});
