import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { type TestContext, test } from 'node:test';
import { eventually, listenTo, pause, TestCluster, tell } from './harness.ts';

/** Carries TCP to an endpoint; can cut what it carries, and can swallow instead of carry. */
class Relay {
  readonly #connections = new Set<Socket>();
  #swallows = false;
  endpoint = '';

  static async to(endpoint: string, test: TestContext): Promise<Relay> {
    const relay = new Relay();
    const port = Number(endpoint.split(':').at(-1));
    const server = createServer((inward) => {
      const outward = connect(port, '127.0.0.1');
      for (const [from, to] of [[inward, outward] as const, [outward, inward] as const]) {
        relay.#connections.add(from);
        from.on('data', (bytes) => relay.#swallows || to.write(bytes));
        from.on('error', () => {});
        from.on('close', () => to.destroy());
      }
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    test.after(() => {
      relay.cut();
      server.close();
    });
    relay.endpoint = `tcp://127.0.0.1:${(server.address() as AddressInfo).port}`;
    return relay;
  }

  swallow(): void {
    this.#swallows = true;
  }

  cut(): void {
    for (const connection of this.#connections) connection.destroy();
    this.#connections.clear();
    this.#swallows = false;
  }
}

const limits = { pingEveryMilliseconds: 500, lostAfterMilliseconds: 60_000 };

test('a connection that breaks with nothing in flight is restored, and no node is down', async (t) => {
  const cluster = new TestCluster(t);
  const hub = await cluster.hub({ limits });
  const atHub = listenTo(hub);
  const relay = await Relay.to(hub.endpoint, t);
  const spoke = await cluster.spoke(relay.endpoint, { limits });
  const atSpoke = listenTo(spoke);
  for (let round = 0; round < 3; round += 1) {
    spoke.send(hub.node, tell({ round }));
    hub.send(spoke.node, tell({ round }));
    await eventually(
      'both',
      () => atHub.envelopes.length === 2 * round + 1 && atSpoke.envelopes.length === 2 * round + 1,
    );
    relay.cut();
    // Before ZeroMQ has connected again these wait in the queue.
    await pause(60);
    spoke.send(hub.node, tell({ round, again: true }));
    hub.send(spoke.node, tell({ round, again: true }));
    await eventually(
      'both',
      () => atHub.envelopes.length === 2 * round + 2 && atSpoke.envelopes.length === 2 * round + 2,
    );
  }
  assert.deepEqual(atHub.bodies(), atSpoke.bodies());
  assert.deepEqual([atHub.events.length, atSpoke.events.length], [1, 1]);
});

test('a broken connection that lost messages ends the session rather than leave a gap', async (t) => {
  const cluster = new TestCluster(t);
  const hub = await cluster.hub({ limits });
  const atHub = listenTo(hub);
  const relay = await Relay.to(hub.endpoint, t);
  const spoke = await cluster.spoke(relay.endpoint, { limits });
  const atSpoke = listenTo(spoke);
  await eventually('up', () => atHub.events.length === 1 && atSpoke.events.length === 1);
  spoke.send(hub.node, tell('arrives'));
  await eventually('the first', () => atHub.envelopes.length === 1);
  relay.swallow();
  spoke.send(hub.node, tell('is swallowed'));
  await pause(50);
  relay.cut();
  await pause(60);
  spoke.send(hub.node, tell('would leave a gap'));
  await eventually('down on both sides', () => atHub.events.length === 2 && atSpoke.events.length === 2);
  assert.deepEqual(atHub.bodies(), ['arrives']);
  assert.match(atHub.events[1]!.reason, /it has sent 2 messages but 1 arrived/);
  assert.match(atSpoke.events[1]!.reason, /it has sent 2 messages but 1 arrived/);
});

test('the loss of the very last message is noticed with the next ping', async (t) => {
  const cluster = new TestCluster(t);
  const hub = await cluster.hub({ limits });
  const atHub = listenTo(hub);
  const relay = await Relay.to(hub.endpoint, t);
  const spoke = await cluster.spoke(relay.endpoint, { limits });
  const atSpoke = listenTo(spoke);
  await eventually('up', () => atHub.events.length === 1 && atSpoke.events.length === 1);
  relay.swallow();
  hub.send(spoke.node, tell('is swallowed'));
  await pause(50);
  relay.cut();
  await eventually('down on both sides', () => atHub.events.length === 2 && atSpoke.events.length === 2);
  assert.match(atSpoke.events[1]!.reason, /it has sent 1 messages but 0 arrived/);
});

test('a connection that is up but carries nothing is found by silence', async (t) => {
  const cluster = new TestCluster(t);
  const quick = { pingEveryMilliseconds: 100, lostAfterMilliseconds: 600 };
  const hub = await cluster.hub({ limits: quick });
  const atHub = listenTo(hub);
  const relay = await Relay.to(hub.endpoint, t);
  const spoke = await cluster.spoke(relay.endpoint, { limits: quick });
  const atSpoke = listenTo(spoke);
  await eventually('up', () => atHub.events.length === 1 && atSpoke.events.length === 1);
  relay.swallow();
  await eventually('down on both sides', () => atHub.events.length === 2 && atSpoke.events.length === 2);
  assert.deepEqual(
    [atHub.events[1]!.reason, atSpoke.events[1]!.reason],
    ['silent for 600 ms', 'silent for 600 ms'],
  );
});
