import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { SglangClient, type SglangClientOptions } from '../../src/engines/sglang.ts';
import { AbortedError } from '../../src/errors.ts';
import { systemClock } from '../../src/native-bridge/clock.ts';
import {
  closing,
  fakeEngine,
  hasty,
  links,
  order,
  patient,
  socketPath,
  status,
  version,
} from './fake-engine.ts';
import { gate, never } from './harness.ts';

function clientOf(t: TestContext, endpoint: string, apiKey?: string): SglangClient {
  return closing(t, new SglangClient({ endpoint, clock: systemClock, ...(apiKey && { apiKey }) }));
}

const success = status(200, '{"success":true,"message":"IPC weight update completed successfully"}');

test('an update is one call with the links, which also flushes the cache if requested', async (t) => {
  const { asked, endpoint } = await fakeEngine(t, success);
  const client = clientOf(t, endpoint);
  for (const resetCache of [false, true]) await client.update({ ...order, resetCache }, patient());
  assert.deepEqual(
    asked.map(({ route, body }) => [route, JSON.parse(body)]),
    [false, true].map((flush_cache) => [
      'POST /update_weights_from_ipc',
      { zmq_handles: links, flush_cache },
    ]),
  );
});

test('what the engine keeps of its cache elsewhere is dropped in a step of its own, if it keeps any', async (t) => {
  const clear = '/hicache/storage-backend/clear';
  const older = '/clear_hicache_storage_backend';
  for (const [storage, routes, expected] of [
    ['"file"', [clear], [clear]],
    ['"file"', [older], [clear, older]],
    ['null', [clear], []],
  ] as const) {
    const { asked, endpoint } = await fakeEngine(t, (request, response) => {
      const known = ['/update_weights_from_ipc', ...routes].some((route) => route === request.url);
      if (request.url === '/server_info')
        return status(200, `{"hicache_storage_backend":${storage}}`)(request, response);
      status(known ? 200 : 404)(request, response);
    });
    const client = clientOf(t, endpoint);
    await client.update({ ...order, resetCache: true }, patient());
    asked.length = 0;
    await client.resetCaches(patient());
    const posted = asked.filter(({ route }) => route.startsWith('POST'));
    assert.deepEqual(
      posted.map(({ route }) => route),
      expected.map((route) => `POST ${route}`),
    );
  }
  const { endpoint } = await fakeEngine(t, ({ url }, response) => {
    const answer = url === clear ? 'no such store' : '{"hicache_storage_backend":"file"}';
    status(url === clear ? 400 : 200, answer)({} as never, response);
  });
  await assert.rejects(clientOf(t, endpoint).resetCaches(patient()), {
    message: `engine ${endpoint} answered POST ${clear} with 400: no such store`,
  });
});

test('what an update did not flush is flushed after it, unless requests use it', async (t) => {
  let isIdle = true;
  const { asked, endpoint } = await fakeEngine(t, (request, response) => {
    const isRefused = request.url === '/flush_cache' && !isIdle;
    status(isRefused ? 400 : 200, isRefused ? 'Flush cache failed.' : '{}')(request, response);
  });
  const client = clientOf(t, endpoint);
  const flushes = async (resetCache: boolean) => {
    await client.update({ ...order, resetCache }, patient());
    asked.length = 0;
    await client.resetCaches(patient());
    return asked.filter(({ route }) => route === 'POST /flush_cache').length;
  };
  assert.deepEqual([await flushes(false), await flushes(true)], [1, 0]);
  isIdle = false;
  await assert.rejects(flushes(false), {
    message: /answered POST \/flush_cache with 400: Flush cache failed/,
  });
});

const refusals: [string, number, string, string][] = [
  [
    'a worker that failed',
    400,
    '{"success":false,"message":"Device UUID GPU-3 not found in zmq_handles"}',
    '400: Device UUID GPU-3 not found in zmq_handles',
  ],
  ['one that answers 200 all the same', 200, '{"success":false,"message":"no"}', '200: no'],
  ['a missing API key', 401, '{"error":"Unauthorized"}', '401: Unauthorized'],
  [
    'a request it does not know',
    422,
    '{"detail":"zmq_handles: field required"}',
    '422: zmq_handles: field required',
  ],
  ['a scheduler that died', 500, 'Internal Server Error', '500: Internal Server Error'],
];
for (const [what, code, body, line] of refusals) {
  test(`the error has the message of ${what}`, async (t) => {
    const { endpoint } = await fakeEngine(t, status(code, body));
    await assert.rejects(clientOf(t, endpoint).update(order, patient()), {
      name: 'EngineError',
      message: `engine ${endpoint} answered POST /update_weights_from_ipc with ${line}`,
    });
  });
}

test('an engine is ready once it answers a ping, whatever its health route says', async (t) => {
  let failures = 2;
  const { asked, endpoint } = await fakeEngine(t, (request, response) => {
    failures -= 1;
    const answer = request.url === '/ping' && failures < 0 ? status(200) : status(503);
    answer(request, response);
  });
  await clientOf(t, endpoint).ready(patient());
  assert.deepEqual(asked, Array(3).fill({ route: 'GET /ping', body: '' }));
});

test('an engine says how many workers it has, by what it was started with', async (t) => {
  const sizes = { tp_size: 4, pp_size: 2, dp_size: 2 };
  for (const [said, total] of [
    [{ ...sizes, enable_dp_attention: false }, 16],
    [{ ...sizes, enable_dp_attention: true }, 8],
  ] as const) {
    // The route's name in older ones and in newer ones.
    for (const route of ['/get_server_info', '/server_info']) {
      const { endpoint } = await fakeEngine(t, ({ url }, response) =>
        status(url === route ? 200 : 404, JSON.stringify(said))({} as never, response),
      );
      assert.deepEqual(await clientOf(t, endpoint).worldSize(patient()), { replica: 8, total });
    }
  }
  const { endpoint } = await fakeEngine(t, status(404));
  assert.equal(await clientOf(t, endpoint).worldSize(patient()), null);
});

const infoOf = (info: object) => status(200, JSON.stringify(info));

test('an engine of several replicas that takes no weights is refused before it is paused', async (t) => {
  for (const [info, isRefused] of [
    [{ dp_size: 2, enable_dp_attention: false }, true],
    [{ dp_size: 2, enable_dp_attention: true }, false],
    [{ dp_size: 1 }, false],
    [{}, false],
  ] as const) {
    const { endpoint } = await fakeEngine(t, infoOf(info));
    const workers = clientOf(t, endpoint).workers(patient());
    if (!isRefused) {
      assert.equal(await workers, null);
      continue;
    }
    const message = new RegExp(
      `^engine ${endpoint} is an SGLang with dp_size 2, which takes no weights from other processes: start each replica`,
    );
    await assert.rejects(workers, { name: 'EngineError', message });
  }
});

test("an engine's plug-in says what an update would be refused for, and whether a draft model takes the weights", async (t) => {
  const draft = { takes: 'apart', why: null, refusal: null, unproven: null };
  const said = { protocol: 2, refusal: 'released', unproven: null, isSteady: false, draft, held: null };
  const { endpoint } = await fakeEngine(t, infoOf({ dp_size: 1, internal_states: [{ weightcast: said }] }));
  const of = (options: Partial<SglangClientOptions>) =>
    closing(t, new SglangClient({ endpoint, clock: systemClock, ...options })).workers(patient());
  const workers = await of({ hasDraftModel: true });
  assert.deepEqual([workers!.refusal, workers!.isSteady, workers!.held], ['released', false, 'nothing']);
  await assert.rejects(of({}), { message: /its draft model takes the weights: .*hasDraftModel: true/ });
  assert.equal(await of({ link: 'checkpoint-engine' }), null);
  const alone = await fakeEngine(
    t,
    infoOf({ internal_states: [{ weightcast: { ...said, draft: { ...draft, takes: 'none' } } }] }),
  );
  const client = closing(
    t,
    new SglangClient({ endpoint: alone.endpoint, clock: systemClock, hasDraftModel: true }),
  );
  await assert.rejects(client.workers(patient()), {
    message: /no draft model takes the weights: leave hasDraftModel/,
  });
});

test('an engine is told its version when that is proved, and that no request is to be ended for it', async (t) => {
  const { asked, endpoint } = await fakeEngine(
    t,
    (request, response) => {
      // As an older one.
      if (request.url === '/model_info') return status(404)(request, response);
      status(200, '{"success":true,"weight_version":"qwen@00ff"}')(request, response);
    },
    { transferEngine: true },
  );
  assert.equal(await clientOf(t, endpoint).label(version, patient()), version);
  assert.deepEqual(JSON.parse(asked[0]!.body), { new_version: version, abort_all_requests: false });
});

test('a vLLM, or whatever else serves models without a ping, is refused as such at once', async (t) => {
  for (const [owner, hasPing, message] of [
    ['vllm', true, /is a vLLM, not an SGLang: set engine "vllm" \(--engine vllm\)$/],
    ['vllm', false, /is a vLLM, not an SGLang/],
    ['someone', false, /GET \/ping with 404.*owned by "someone": it is not an SGLang \(engine, --engine\)$/],
  ] as const) {
    const { endpoint } = await fakeEngine(t, (request, response) => {
      if (request.url === '/ping' && !hasPing) return status(404)(request, response);
      status(200, JSON.stringify({ data: [{ id: 'm', owned_by: owner }] }))(request, response);
    });
    const client = clientOf(t, endpoint);
    const asked = hasPing ? client.state(patient()) : client.ready(patient());
    await assert.rejects(asked, { name: 'EngineError', message });
  }
});

test('an engine is paused in the requested mode, and resumed', async (t) => {
  const { asked, endpoint } = await fakeEngine(t, status(200, '{"message":"ok","status":"ok"}'));
  const client = clientOf(t, endpoint);
  for (const mode of ['abort', 'retract', 'in_place'] as const) await client.pause(mode, patient());
  await client.resume(patient());
  assert.deepEqual(asked, [
    { route: 'POST /pause_generation', body: '{"mode":"abort"}' },
    { route: 'POST /pause_generation', body: '{"mode":"retract"}' },
    { route: 'POST /pause_generation', body: '{"mode":"in_place"}' },
    { route: 'POST /continue_generation', body: '{}' },
  ]);
});

test('requests that a pause has aborted are gone before an update that flushes the cache', async (t) => {
  let busy = 2;
  const { asked, endpoint } = await fakeEngine(t, (request, response) => {
    if (request.url !== '/flush_cache') return success(request, response);
    busy -= 1;
    status(busy < 0 ? 200 : 400, 'Flush cache failed.')(request, response);
  });
  const client = clientOf(t, endpoint);
  const routesOf = async (mode: 'abort' | 'in_place', resetCache: boolean) => {
    asked.length = 0;
    await client.pause(mode, patient());
    await client.update({ ...order, resetCache }, patient());
    return asked.slice(1, -1).map(({ route }) => route);
  };
  assert.deepEqual(await routesOf('abort', true), Array(3).fill('POST /flush_cache'));
  assert.deepEqual(await routesOf('abort', false), []);
  assert.deepEqual(await routesOf('in_place', false), []);
  // An update without a pause of ours waits for requests by itself.
  await client.update({ ...order, resetCache: true }, patient());
  assert.equal(asked.at(-2)!.route, 'POST /update_weights_from_ipc');
});

test('a unix socket, an API key, a deadline and an abort work as with vLLM', async (t) => {
  const answered = gate();
  const { asked, endpoint } = await fakeEngine(
    t,
    (request, response) => {
      if (request.url === '/ping') status(200)(request, response);
      else answered.open();
    },
    { path: socketPath(t) },
  );
  const client = clientOf(t, endpoint, 'sk-1');
  await client.ready(patient());
  assert.equal(asked[0]!.authorization, 'Bearer sk-1');
  await assert.rejects(client.update(order, hasty()), {
    name: 'DeadlineError',
    message: `engine ${endpoint} did not answer POST /update_weights_from_ipc within 300 ms`,
  });
  await answered.opened;
  const controller = new AbortController();
  const update = client.update(order, { timeoutMilliseconds: never, signal: controller.signal });
  const reason = new AbortedError('rank 3 died');
  controller.abort(reason);
  await assert.rejects(update, (error) => error === reason);
});
