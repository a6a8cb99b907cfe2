import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { LmdeployClient } from '../../src/engines/lmdeploy.ts';
import { systemClock } from '../../src/native-bridge/clock.ts';
import { closing, fakeEngine, links, order, patient, status } from './fake-engine.ts';

/** An LMDeploy's API server as that of 0.18 answers, with its states of sleep; it has two workers. */
class FakeLmdeploy {
  asleep = new Set<string>();
  /** Where the weights are while they sleep: an engine that was started with --empty-init has them on its device. */
  weights: 'cuda' | 'cpu' = 'cuda';
  facts: object = { backend: 'pytorch', device_type: 'cuda', checkpoint_engine_version: '0.4.2' };
  outcome: readonly [number, object] = [200, { success: true, message: 'Succeeded' }];

  async start(t: TestContext) {
    const { asked, endpoint } = await fakeEngine(t, (request, response) => {
      const [code, body] = this.#answer(`${request.method} ${request.url}`);
      status(code, JSON.stringify(body))(request, response);
    });
    const client = closing(t, new LmdeployClient({ endpoint, clock: systemClock }));
    const posted = () => asked.map(({ route }) => route).filter((route) => route.startsWith('POST'));
    return { asked, client, endpoint, posted };
  }

  #answer(route: string): readonly [number, object] {
    const url = new URL(route.split(' ')[1]!, 'http://engine');
    switch (`${route.split(' ')[0]} ${url.pathname}`) {
      case 'GET /health':
        return [200, { status: this.asleep.size > 0 ? 'sleeping' : 'healthy' }];
      case 'GET /v1/models':
        return [200, { data: [{ id: 'm', owned_by: 'lmdeploy' }] }];
      case 'GET /is_sleeping':
        return [200, { is_sleeping: this.asleep.size > 0 }];
      case 'GET /update_weights_from_ipc':
        return [200, this.#status()];
      case 'POST /sleep':
        this.asleep = new Set(['weights', 'kv_cache']);
        this.weights = 'cpu';
        return [200, {}];
      case 'POST /wakeup': {
        const tags = url.searchParams.getAll('tags');
        for (const tag of tags.length > 0 ? tags : [...this.asleep]) this.asleep.delete(tag);
        if (!this.asleep.has('weights')) this.weights = 'cuda';
        return [200, {}];
      }
      case 'POST /update_weights_from_ipc':
        if (this.outcome[0] === 200) this.asleep.delete('weights');
        return this.outcome;
      default:
        return [404, { detail: 'Not Found' }];
    }
  }

  #status() {
    const isReady = this.weights === 'cuda' && this.asleep.has('kv_cache');
    return {
      ...this.facts,
      ready: isReady,
      message: isReady ? 'checkpoint-engine IPC receiver is ready.' : 'Engine must be sleeping',
      is_sleeping: this.asleep.size > 0,
      sleeping_tags: [...this.asleep].sort(),
      device_uuids: Object.keys(links),
      worker_ranks: [0, 1],
    };
  }
}

test('an engine is paused by sleep, with its weights awake; after the update the rest wakes up', async (t) => {
  const { client, asked, posted } = await new FakeLmdeploy().start(t);
  await client.ready(patient());
  assert.deepEqual(await client.state(patient()), { isPaused: false, isSleeping: false, version: null });
  await client.pause('abort', patient());
  assert.deepEqual(await client.state(patient()), { isPaused: true, isSleeping: false, version: null });
  await client.pause('abort', patient());
  await client.update(order, patient());
  await client.resume(patient());
  assert.deepEqual(posted(), [
    'POST /sleep?level=1',
    'POST /wakeup?tags=weights',
    'POST /update_weights_from_ipc',
    'POST /wakeup',
  ]);
  const update = asked.find(({ route }) => route === 'POST /update_weights_from_ipc')!;
  assert.deepEqual(JSON.parse(update.body), { zmq_handles: links });
  assert.equal((await client.state(patient())).isPaused, false);
});

test('an update that is given up before any weights wakes up an engine with the weights that it had', async (t) => {
  const engine = new FakeLmdeploy();
  const { client } = await engine.start(t);
  await client.pause('abort', patient());
  await client.resume(patient());
  assert.deepEqual([engine.asleep.size, engine.weights], [0, 'cuda']);
});

test('an engine that was started without weights takes its first ones without another sleep', async (t) => {
  const engine = new FakeLmdeploy();
  engine.asleep = new Set(['weights', 'kv_cache']);
  const { client, posted } = await engine.start(t);
  assert.deepEqual(await client.state(patient()), { isPaused: true, isSleeping: false, version: null });
  await client.pause('abort', patient());
  assert.deepEqual(posted(), []);
});

test('one whose caller has put its weights to sleep says so', async (t) => {
  const engine = new FakeLmdeploy();
  engine.asleep = new Set(['weights', 'kv_cache']);
  engine.weights = 'cpu';
  const { client } = await engine.start(t);
  assert.deepEqual(await client.state(patient()), { isPaused: true, isSleeping: true, version: null });
});

test('an engine that never takes weights is refused before it is paused, in its own words', async (t) => {
  for (const facts of [
    { backend: 'turbomind', device_type: 'cuda', checkpoint_engine_version: null },
    { backend: 'pytorch', device_type: 'ascend', checkpoint_engine_version: '0.4.2' },
    { backend: 'pytorch', device_type: 'cuda', checkpoint_engine_version: null },
  ]) {
    const engine = new FakeLmdeploy();
    engine.facts = facts;
    const { client, endpoint, posted } = await engine.start(t);
    await assert.rejects(client.state(patient()), {
      name: 'EngineError',
      message: `engine ${endpoint} cannot be updated as it was started: Engine must be sleeping`,
    });
    assert.deepEqual(posted(), []);
  }
});

test('an update that fails has the message of its worker', async (t) => {
  const engine = new FakeLmdeploy();
  engine.outcome = [
    400,
    { success: false, message: 'No checkpoint-engine ZMQ handle for local device GPU-3' },
  ];
  const { client, endpoint } = await engine.start(t);
  await assert.rejects(client.update(order, patient()), {
    name: 'EngineError',
    message: `engine ${endpoint} answered POST /update_weights_from_ipc with 400: No checkpoint-engine ZMQ handle for local device GPU-3`,
  });
});

test('an engine says how many workers it has, and an older one without the route does not', async (t) => {
  const { client } = await new FakeLmdeploy().start(t);
  assert.deepEqual(await client.worldSize(patient()), { replica: 2, total: 2 });
  const { endpoint } = await fakeEngine(t, status(404));
  const older = closing(t, new LmdeployClient({ endpoint, clock: systemClock }));
  assert.equal(await older.worldSize(patient()), null);
  await assert.rejects(older.state(patient()), /GET \/update_weights_from_ipc with 404/);
});

test('an engine of another kind is refused as such', async (t) => {
  const { endpoint } = await fakeEngine(t, status(200, '{"data":[{"owned_by":"vllm"}]}'));
  const client = closing(t, new LmdeployClient({ endpoint, clock: systemClock }));
  await assert.rejects(client.state(patient()), /is a vLLM, not an LMDeploy: set engine "vllm"/);
});
