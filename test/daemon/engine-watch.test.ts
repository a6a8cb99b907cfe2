import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { EngineWatch } from '../../src/daemon/engine-watch.ts';
import { createLog } from '../../src/observe/log.ts';
import { type Answer, fakeEngine, status } from '../engines/fake-engine.ts';
import { never } from '../engines/harness.ts';

/** An engine that says of itself what `said` has, and a watch that has not asked it yet. */
async function watched(t: TestContext, said: Record<string, unknown>) {
  const answer: Answer = (request, response) => {
    const isProtocol = request.url === '/collective_rpc';
    const body = isProtocol ? { results: [{ protocol: said.protocol }] } : said;
    status(200, JSON.stringify(body))(request, response);
  };
  // It says itself what its workers are.
  const engine = await fakeEngine(t, answer, { transferEngine: true });
  const watch = new EngineWatch(createLog('test'), never);
  t.after(() => watch.close());
  return { ...engine, watch, instance: { name: 'a', endpoint: engine.endpoint, ranks: [0, 1] } };
}

test('an engine that someone else has paused is found out, and not asked again for a while', async (t) => {
  const said = { is_paused: false };
  const { asked, watch, instance } = await watched(t, said);
  const problem = () => watch.problem(instance);
  assert.deepEqual(await Promise.all([problem(), problem()]), [null, null]);
  const { length } = asked;
  said.is_paused = true;
  assert.equal(await problem(), null);
  assert.equal(asked.length, length);
  watch.forget('a');
  assert.equal(await problem(), 'its engine was paused by someone else');
});

test('an engine that is gone is found out', async (t) => {
  const { server, watch, instance } = await watched(t, {});
  server.close();
  assert.match((await watch.problem(instance))!, /is not ready after 2000 ms: .*ECONNREFUSED/);
});

test('who waits for an engine that is asked is told when the daemon stops', async (t) => {
  const engine = await fakeEngine(t, () => {});
  const watch = new EngineWatch(createLog('test'), never);
  const checked = watch.check({ name: 'a', endpoint: engine.endpoint, ranks: [0] });
  watch.close();
  await assert.rejects(checked, { name: 'AbortedError', message: 'the daemon is stopping' });
});

test('an engine is asked for its workers and their version of the link when its instance is added', async (t) => {
  const said = { world_size: 2, protocol: 2 };
  const { watch, instance } = await watched(t, said);
  assert.equal(await watch.check(instance), null);
  assert.equal(await watch.workersOf(instance), 2);
  said.world_size = 4;
  await assert.rejects(watch.check(instance), {
    name: 'UsageError',
    message: `instance a (${instance.endpoint}) has 2 ranks, and its engine has 4 workers: give it one rank for each worker`,
  });
  Object.assign(said, { world_size: 2, protocol: 9 });
  await assert.rejects(watch.check(instance), {
    name: 'EngineError',
    message: /speak version 9 .* install the same/,
  });
});
