import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { type TestContext, test } from 'node:test';
import { receiveWeights } from '../../src/engines/worker-link/worker-side.ts';
import { Cluster, type InstanceOptions } from '../../src/index.ts';
import { systemClock } from '../../src/native-bridge/clock.ts';
import { sharedMemoryName } from '../shared-memory-name.ts';

type Fault = 'none' | 'load' | 'pause';

/** An engine's HTTP face with workers that take no bytes, in this process; `asked` is what it was asked, in order. */
async function startEngine(t: TestContext, fault: () => Fault) {
  const asked: string[] = [];
  const receiver = {
    open: () => {},
    async load() {
      asked.push('load');
      if (fault() === 'load') throw new RangeError('no such tensor');
    },
    release: () => {},
    finish: async () => null,
  };
  async function update(body: string): Promise<void> {
    const [links] = JSON.parse(body).args as [Record<string, string>];
    const workers = Object.entries(links).map(([deviceUuid, address]) =>
      receiveWeights({ address, deviceUuid, timeoutMilliseconds: 30_000, clock: systemClock }, receiver),
    );
    await Promise.all(workers);
  }
  const server = createServer(async (request, response) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    const url = request.url!;
    // It has a worker extension, and no weight-transfer engine.
    if (url === '/init_weight_transfer_engine') return void response.writeHead(404).end();
    if (url !== '/health') asked.push(url);
    if (url.startsWith('/pause') && fault() === 'pause') return void response.writeHead(404).end();
    if (url !== '/collective_rpc') return void response.end('{}');
    await update(Buffer.concat(chunks).toString()).then(
      () => response.end('{"results":[null]}'),
      (error: Error) => response.writeHead(500).end(error.message),
    );
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return { asked, endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}` };
}

async function startCluster(t: TestContext, instances: InstanceOptions[]): Promise<Cluster> {
  const cluster = await Cluster.start({
    ranks: instances.length,
    instances,
    devices: { kind: 'host', namespace: sharedMemoryName(), capacity: 2 ** 24 },
  });
  t.after(() => cluster.stop());
  await cluster.register('a', { tensors: { w: { dtype: 'F32', shape: [4], data: new Uint8Array(16) } } });
  return cluster;
}

test('an engine is paused before its weights change and resumed after all instances are updated', async (t) => {
  const engine = await startEngine(t, () => 'none');
  const { asked, endpoint } = engine;
  const instance = { name: 'blue', endpoint, ranks: [0], pause: 'abort', resetCache: true } as const;
  const cluster = await startCluster(t, [instance]);
  await cluster.update('a');
  assert.deepEqual(asked, ['/pause?mode=abort', '/collective_rpc', 'load', '/reset_prefix_cache', '/resume']);
});

test('an engine whose update failed stays paused, and the next update resumes it', async (t) => {
  let fault: Fault = 'load';
  const { asked, endpoint } = await startEngine(t, () => fault);
  const cluster = await startCluster(t, [{ name: 'blue', endpoint, ranks: [0], pause: 'wait' }]);
  await assert.rejects(cluster.update('a'), /no such tensor/);
  assert.deepEqual(asked, ['/pause?mode=wait', '/collective_rpc', 'load']);
  fault = 'none';
  await cluster.update('a');
  assert.deepEqual(asked.slice(3), ['/pause?mode=wait', '/collective_rpc', 'load', '/resume']);
});

test('if one engine cannot be paused, all engines resume and none is updated', async (t) => {
  const good = await startEngine(t, () => 'none');
  const bad = await startEngine(t, () => 'pause');
  const cluster = await startCluster(t, [
    { name: 'blue', endpoint: good.endpoint, ranks: [0], pause: 'abort' },
    { name: 'green', endpoint: bad.endpoint, ranks: [1], pause: 'abort' },
  ]);
  await assert.rejects(cluster.update('a'), {
    name: 'EngineError',
    message: /POST \/pause\?mode=abort with 404/,
  });
  assert.equal(good.asked.at(-1), '/resume');
  assert.ok([...good.asked, ...bad.asked].every((asked) => asked !== '/collective_rpc'));
  const { instances } = await cluster.status();
  assert.deepEqual(
    instances.map(({ state }) => state),
    ['unknown', 'unknown'],
  );
});

test('a tensor that an engine worker cannot receive is refused before any engine is called', async (t) => {
  const { asked, endpoint } = await startEngine(t, () => 'none');
  const cluster = await startCluster(t, [
    { name: 'blue', endpoint, ranks: [0], link: 'checkpoint-engine', pause: 'abort' },
  ]);
  const strange = { dtype: 'F6_E2M3', shape: [4], data: new Uint8Array(3) };
  await cluster.register('strange', { tensors: { 'experts.w1': strange } });
  await assert.rejects(cluster.update('strange'), {
    name: 'CheckpointError',
    message: /"experts\.w1" of dtype F6_E2M3/,
  });
  assert.deepEqual(asked, []);
});
