import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { VllmClient, type VllmClientOptions } from '../../src/engines/vllm.ts';
import { systemClock } from '../../src/native-bridge/clock.ts';
import { type Answer, closing, fakeEngine, links, order, patient, status } from './fake-engine.ts';

function clientOf(t: TestContext, endpoint: string, options: Partial<VllmClientOptions> = {}): VllmClient {
  return closing(t, new VllmClient({ endpoint, clock: systemClock, ...options }));
}

test('an update is one collective_rpc call with the links as its argument and a longer time limit than ours', async (t) => {
  for (const [link, method, body] of [
    [undefined, 'update_weights_from_weightcast', '{"results":[null,{"a":1}]}'],
    ['weightcast', 'update_weights_from_weightcast', '{"results":[null,{"a":1}]}'],
    ['checkpoint-engine', 'update_weights_from_ipc', ''],
  ] as const) {
    const { asked, endpoint } = await fakeEngine(t, status(200, body));
    const client = clientOf(t, endpoint, link === undefined ? {} : { link });
    await client.update(order, { ...patient(), timeoutMilliseconds: 90_500 });
    assert.equal(asked.length, 1);
    assert.equal(asked[0]!.route, 'POST /collective_rpc');
    assert.deepEqual(JSON.parse(asked[0]!.body), { method, args: [links], timeout: 151 });
  }
});

test('the prefix cache is reset after the update, if it is asked for', async (t) => {
  const { asked, endpoint } = await fakeEngine(t, status(200));
  await clientOf(t, endpoint).update({ ...order, resetCache: true }, patient());
  assert.deepEqual(
    asked.map(({ route }) => route),
    ['POST /collective_rpc', 'POST /reset_prefix_cache'],
  );
});

test('a cache that cannot be reset fails the update, and an update that fails resets nothing', async (t) => {
  const failing = (route: string, answer: Answer) =>
    fakeEngine(t, (request, response) => (request.url === route ? answer : status(200))(request, response));
  const busy = await failing('/reset_prefix_cache', status(200, '{"success":false}'));
  await assert.rejects(clientOf(t, busy.endpoint).update({ ...order, resetCache: true }, patient()), {
    name: 'EngineError',
    message: /answered POST \/reset_prefix_cache with 200: \{"success":false\}$/,
  });
  const broken = await failing('/collective_rpc', status(500, '{"error":{"message":"KeyError: w"}}'));
  await assert.rejects(clientOf(t, broken.endpoint).update({ ...order, resetCache: true }, patient()), {
    message: /answered POST \/collective_rpc with 500: KeyError: w$/,
  });
  assert.equal(broken.asked.length, 1);
});

test('an engine is paused in the way that is asked for, and resumed', async (t) => {
  const { asked, endpoint } = await fakeEngine(t, status(200, '{"status":"paused"}'));
  const client = clientOf(t, endpoint);
  for (const mode of ['abort', 'wait', 'keep'] as const) await client.pause(mode, patient());
  await client.resume(patient());
  assert.deepEqual(asked, [
    { route: 'POST /pause?mode=abort', body: '' },
    { route: 'POST /pause?mode=wait', body: '' },
    { route: 'POST /pause?mode=keep', body: '' },
    { route: 'POST /resume', body: '' },
  ]);
});

test('an engine that has no such route says so', async (t) => {
  const { endpoint } = await fakeEngine(t, status(404, '{"detail":"Not Found"}'));
  const client = clientOf(t, endpoint);
  await assert.rejects(client.pause('wait', patient()), {
    name: 'EngineError',
    message: `engine ${endpoint} answered POST /pause?mode=wait with 404: Not Found`,
  });
  await assert.rejects(client.resume(patient()), { message: /POST \/resume with 404: Not Found$/ });
});
