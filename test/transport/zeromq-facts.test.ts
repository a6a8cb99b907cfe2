import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Dealer, Router } from 'zeromq';
import { eventually } from './harness.ts';

/** What the transport relies on; where ZeroMQ changes its ways, these say so before a session does. */
const highWaterMark = 10;
const large = Buffer.alloc(1 << 20);

async function routerWith(t: import('node:test').TestContext, options: object, peers: readonly string[]) {
  const router = new Router({ sendHighWaterMark: highWaterMark, sendTimeout: 0, linger: 0, ...options });
  t.after(() => router.close());
  await router.bind('tcp://127.0.0.1:*');
  const dealers: Dealer[] = [];
  for (const routingId of peers) {
    const dealer = new Dealer({ routingId, receiveHighWaterMark: highWaterMark, linger: 0 });
    t.after(() => dealer.close());
    dealer.connect(router.lastEndpoint!);
    await dealer.send('hello');
    await router.receive();
    dealers.push(dealer);
  }
  return { router, dealers };
}

/** Sends until ZeroMQ refuses, or `most` times. Returns how often it took and what it said then. */
async function fill(router: Router, peer: string, most: number): Promise<[number, string]> {
  for (let taken = 0; taken < most; taken += 1) {
    const code = await router.send([peer, large]).then(
      () => null,
      (error: NodeJS.ErrnoException) => error.code!,
    );
    if (code !== null) return [taken, code];
  }
  return [most, 'never'];
}

test('a mandatory ROUTER refuses for the full peer alone, and takes again when it has read', async (t) => {
  const { router, dealers } = await routerWith(t, { mandatory: true }, ['slow', 'fast']);
  const [taken, code] = await fill(router, 'slow', 1_000);
  assert.equal(code, 'EAGAIN');
  await router.send(['fast', 'not delayed']);
  assert.equal(String((await dealers[1]!.receive())[0]), 'not delayed');
  for (let received = 0; received < taken; received += 1) await dealers[0]!.receive();
  await router.send(['slow', 'in order']);
  assert.equal(String((await dealers[0]!.receive())[0]), 'in order');
});

test('a ROUTER that is not mandatory drops in silence', async (t) => {
  const { router } = await routerWith(t, {}, ['slow']);
  assert.deepEqual(await fill(router, 'slow', 200), [200, 'never']);
  await router.send(['nobody', 'x']);
});

test('a mandatory ROUTER tells a peer that was never there or is gone from one that is full', async (t) => {
  const { router, dealers } = await routerWith(t, { mandatory: true }, ['leaver']);
  await assert.rejects(router.send(['nobody', 'x']), { code: 'EHOSTUNREACH' });
  dealers[0]!.close();
  let code = '';
  void (async () => {
    while (code === '') {
      await router.send(['leaver', 'x']).catch((error) => {
        code = error.code;
      });
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  })();
  await eventually('it is gone', () => code === 'EHOSTUNREACH');
});

test('an immediate DEALER takes nothing while it has no connection', async (t) => {
  const dealer = new Dealer({ immediate: true, sendTimeout: 0, linger: 0 });
  t.after(() => dealer.close());
  dealer.connect('tcp://127.0.0.1:1');
  await assert.rejects(dealer.send('x'), { code: 'EAGAIN' });
});

test('sends with a timeout of 0 may follow each other without waiting, and keep their order', async (t) => {
  const { router, dealers } = await routerWith(t, { mandatory: true, sendHighWaterMark: 1_000 }, ['peer']);
  const sends = Array.from({ length: 500 }, (_, index) => router.send(['peer', String(index)]));
  await Promise.all(sends);
  for (let index = 0; index < 500; index += 1) {
    assert.equal(String((await dealers[0]!.receive())[0]), String(index));
  }
});
