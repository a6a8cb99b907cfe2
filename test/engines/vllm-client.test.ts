import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { VllmClient, type VllmClientOptions } from '../../src/engines/vllm.ts';
import { systemClock } from '../../src/native-bridge/clock.ts';
import type { Clock } from '../../src/ports.ts';
import {
  type Answer,
  closing,
  fakeEngine,
  hasty,
  links,
  order,
  patient,
  status,
  version,
} from './fake-engine.ts';

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

test('a worker whose answer is an error has failed: one that raises would leave the answers of others to the next call', async (t) => {
  const traceback =
    'Traceback (most recent call last):\n  File "x.py"\nweightcast.errors.EngineAsleep: asleep\n';
  const answer = JSON.stringify({ results: [{ epoch: 1 }, { error: traceback }] });
  const { endpoint } = await fakeEngine(t, status(200, answer));
  const message = `worker 1 of engine ${endpoint} failed in update_weights_from_weightcast: weightcast.errors.EngineAsleep: asleep`;
  await assert.rejects(clientOf(t, endpoint).update(order, patient()), { name: 'EngineError', message });
});

test('an engine says how many workers it has, with those of other data-parallel replicas and without', async (t) => {
  const { endpoint } = await fakeEngine(t, ({ url }, response) => {
    const size = url === '/get_world_size?include_dp=true' ? 8 : 4;
    status(url!.startsWith('/get_world_size') ? 200 : 404, `{"world_size":${size}}`)({} as never, response);
  });
  assert.deepEqual(await clientOf(t, endpoint).worldSize(patient()), { replica: 4, total: 8 });
  const old = await fakeEngine(t, status(404));
  assert.equal(await clientOf(t, old.endpoint).worldSize(patient()), null);
});

const resets = ['/reset_prefix_cache?reset_external=true', '/reset_mm_cache', '/reset_encoder_cache'];

test('everything that old weights computed is dropped, in a step of its own', async (t) => {
  const { asked, endpoint } = await fakeEngine(t, status(200));
  const client = clientOf(t, endpoint);
  await client.update({ ...order, resetCache: true }, patient());
  assert.equal(asked.length, 1);
  await client.resetCaches(patient());
  const routes = asked.slice(1).map(({ route }) => route);
  assert.deepEqual(routes.sort(), resets.map((route) => `POST ${route}`).sort());
});

test('an engine without multimodal caches or an external store drops what it has', async (t) => {
  const { asked, endpoint } = await fakeEngine(t, (request, response) => {
    if (/mm_cache|encoder/.test(request.url!)) return status(404)(request, response);
    // As vLLM answers without a connector to such a store.
    status(200, `{"success":${!request.url!.includes('external')}}`)(request, response);
  });
  await clientOf(t, endpoint).resetCaches(patient());
  const routes = asked.map(({ route }) => route.replace('POST ', ''));
  assert.deepEqual(routes.sort(), ['/reset_prefix_cache', ...resets].sort());
});

test('a cache that cannot be reset is an error, and the caches that do not look whether they are used are left', async (t) => {
  const { asked, endpoint } = await fakeEngine(t, (request, response) =>
    status(200, `{"success":${!request.url!.includes('prefix')}}`)(request, response),
  );
  await assert.rejects(clientOf(t, endpoint).resetCaches(patient()), {
    name: 'EngineError',
    message: /answered POST \/reset_prefix_cache with 200: \{"success":false\}$/,
  });
  assert.ok(asked.every(({ route }) => route.includes('/reset_prefix_cache')));
});

const sessionWorkers = status(200, '{"results":[{"protocol":2,"face":"session"}]}');

/** A vLLM with the routes of weight-transfer sessions; `answers` says what is other than from one of ours, each once. */
async function engineWithSessions(t: TestContext, answers: Record<string, Answer[]> = {}) {
  const usual = (url: string) =>
    url === '/collective_rpc' ? sessionWorkers : status(200, '{"message":"ok"}');
  const engine = await fakeEngine(
    t,
    (request, response) => (answers[request.url!]?.shift() ?? usual(request.url!))(request, response),
    { transferEngine: true },
  );
  return {
    ...engine,
    routes: () => engine.asked.map(({ route }) => route.replace('POST /', '')),
  };
}

const session = ['start_weight_update', 'update_weights', 'finish_weight_update'];

test('an engine whose weight-transfer engine is weightcast is updated in a session, and not told a version', async (t) => {
  const { asked, endpoint, routes } = await engineWithSessions(t);
  await clientOf(t, endpoint).update(order, patient());
  assert.deepEqual(routes(), ['collective_rpc', ...session]);
  assert.deepEqual(
    asked.slice(1).map(({ body }) => (body === '' ? null : JSON.parse(body))),
    [null, { update_info: { links } }, {}],
  );
});

test('a draft model takes the weights in a session of its own', async (t) => {
  const { endpoint, routes } = await engineWithSessions(t);
  await clientOf(t, endpoint, { hasDraftModel: true }).update(order, patient());
  const draft = ['start_draft_weight_update', 'update_weights', 'finish_weight_update'];
  assert.deepEqual(routes(), ['collective_rpc', ...session, ...draft]);
});

test('an engine with a worker extension is asked nothing that fails, which would leave answers of workers behind', async (t) => {
  const extension = status(200, '{"results":[{"protocol":2},{"protocol":2}]}');
  const { asked, endpoint } = await engineWithSessions(t, {
    '/collective_rpc': [extension, status(200), status(500), extension, status(200)],
  });
  const client = clientOf(t, endpoint);
  await client.update(order, patient());
  // The second time it is not asked, and after a failure it is: it may have been started again, and otherwise.
  await assert.rejects(client.update(order, patient()));
  await client.update(order, patient());
  const [question, update] = ['weightcast_protocol', 'update_weights_from_weightcast'];
  assert.deepEqual(
    asked.map(({ body }) => JSON.parse(body).method),
    [question, update, update, question, update],
  );
});

test('what a call that failed has left in the way of the question is not its answer', async (t) => {
  const left = status(500, '{"error":{"message":"Worker failed with error of an earlier call"}}');
  const { endpoint, routes } = await engineWithSessions(t, {
    '/collective_rpc': [left, status(200, '{"results":[{"protocol":2},{"protocol":2}]}')],
  });
  assert.equal(await clientOf(t, endpoint).linkProtocol(patient()), 2);
  assert.deepEqual(routes(), ['collective_rpc', 'collective_rpc']);
});

/** As workers refuse the sender's version. */
const refusing = (theirs: number) =>
  status(
    500,
    JSON.stringify({
      error: {
        message: `failed with 'the sender speaks version 2 of the worker link, this worker ${theirs}'`,
      },
    }),
  );

test('an engine says which version of the worker link its workers understand, before anything else is asked', async (t) => {
  const session = await engineWithSessions(t);
  assert.equal(await clientOf(t, session.endpoint).linkProtocol(patient()), 2);
  // One version apart: ours is that version's then. Its workers in sessions have no other answer.
  const noMethod = status(500, '{"error":{"message":"no attribute weightcast_protocol"}}');
  const older = await engineWithSessions(t, {
    '/collective_rpc': [noMethod, noMethod],
    '/init_weight_transfer_engine': [refusing(1)],
  });
  assert.equal(await clientOf(t, older.endpoint).linkProtocol(patient()), 1);
  assert.deepEqual(
    older.asked.slice(2).map(({ body }) => JSON.parse(body)),
    [{ init_info: { protocol: 2 } }, { init_info: { protocol: 1 } }],
  );
  const none = status(500, '{"error":{"message":"Weight transfer not configured"}}');
  for (const [answer, version] of [
    [status(200, '{"results":[{"protocol":3},{"protocol":3}]}'), 3],
    [status(200, '{"results":[{"protocol":2},{"protocol":2}]}'), 2],
    // Workers that have no answer, and those that give several, take what the first version has.
    [noMethod, 1],
    [status(200, '{"results":[{"protocol":1},{"protocol":2}]}'), 1],
    [status(200, ''), 1],
  ] as const) {
    const extension = await engineWithSessions(t, {
      '/init_weight_transfer_engine': [none],
      '/collective_rpc': [answer, answer],
    });
    assert.equal(await clientOf(t, extension.endpoint).linkProtocol(patient()), version);
  }
  const foreign = await fakeEngine(t, status(200));
  const options = { link: 'checkpoint-engine' } as const;
  assert.equal(await clientOf(t, foreign.endpoint, options).linkProtocol(patient()), null);
  assert.deepEqual(foreign.asked, []);
});

test('an engine without names for its weights is told none again, until it says one', async (t) => {
  let hasNames = false;
  const answer: Answer = (request, response) =>
    status(hasNames ? 200 : 404, '{"weight_version":"a"}')(request, response);
  const { asked, endpoint } = await fakeEngine(t, answer, { transferEngine: true });
  const client = clientOf(t, endpoint);
  const told = () => asked.filter(({ route }) => route === 'POST /update_weight_version').length;
  assert.deepEqual([await client.label('a', patient()), await client.label('a', patient())], [null, null]);
  assert.equal(told(), 1);
  hasNames = true;
  assert.equal((await client.state(patient())).version, 'a');
  assert.equal(await client.label('a', patient()), 'a');
  assert.equal(told(), 2);
});

test('an engine whose workers are further apart is refused, with what to do', async (t) => {
  for (const answers of [
    { '/collective_rpc': [status(404), status(404)], '/init_weight_transfer_engine': [refusing(4)] },
    { '/collective_rpc': [status(200, '{"results":[{"protocol":4}]}')] },
  ]) {
    const { endpoint } = await engineWithSessions(t, answers);
    await assert.rejects(clientOf(t, endpoint).linkProtocol(patient()), {
      name: 'EngineError',
      message: /speak version 4 of the worker link, this weightcast version 2: install the same version/,
    });
  }
});

test('an engine is asked what it holds by the face that it has, and keeps the name of its version', async (t) => {
  const { asked, endpoint, routes } = await engineWithSessions(t);
  const client = clientOf(t, endpoint, { hasDraftModel: true });
  await client.survey('ipc://@survey', patient());
  const draft = ['start_draft_weight_update', 'update_weights', 'finish_weight_update'];
  assert.deepEqual(routes(), ['collective_rpc', ...session, ...draft]);
  const bodies = asked.map(({ body }) => body);
  assert.deepEqual(
    bodies.filter((body) => body.includes('survey')),
    Array(2).fill('{"update_info":{"survey":"ipc://@survey"}}'),
  );
  assert.ok(bodies.every((body) => !body.includes('weight_version')));
  const extension = await fakeEngine(t, status(200));
  await clientOf(t, extension.endpoint).survey('ipc://@survey', patient());
  const { method, args } = JSON.parse(extension.asked[0]!.body);
  assert.deepEqual([method, args], ['weightcast_survey', ['ipc://@survey']]);
});

test('an engine with workers of another protocol is not updated in another way', async (t) => {
  const { endpoint, routes } = await engineWithSessions(t, {
    '/collective_rpc': [status(200, '{"results":[{"protocol":4,"face":"session"}]}')],
  });
  await assert.rejects(clientOf(t, endpoint).update(order, patient()), { message: /speak version 4/ });
  assert.deepEqual(routes(), ['collective_rpc']);
});

const active = status(500, '{"error":{"message":"a weight update is already active"}}');
/** What it waits for between two tries is over at once. */
const hurried: Clock = {
  ...systemClock,
  after: (milliseconds, callback) => systemClock.after(milliseconds < 1_000 ? 0 : milliseconds, callback),
};

test('a session of another cluster is waited for, and not closed', async (t) => {
  const { endpoint, routes } = await engineWithSessions(t, { '/start_weight_update': [active, active] });
  await clientOf(t, endpoint, { clock: hurried }).update(order, patient());
  const start = 'start_weight_update';
  assert.deepEqual(routes().slice(1), [start, start, ...session]);
});

test('a session that nobody finished is closed by an update that fails', async (t) => {
  const { asked, endpoint } = await engineWithSessions(t, {
    '/start_weight_update': [active, active, active],
    '/update_weights': [status(500)],
  });
  await clientOf(t, endpoint, { clock: hurried }).update(order, patient());
  assert.deepEqual(
    asked.slice(1).map(({ route, body }) => [route, body === '' ? null : JSON.parse(body)]),
    [
      ['POST /start_weight_update', null],
      ['POST /start_weight_update', null],
      ['POST /start_weight_update', null],
      ['POST /update_weights', { update_info: { links: {} } }],
      ['POST /start_weight_update', null],
      ['POST /update_weights', { update_info: { links } }],
      ['POST /finish_weight_update', {}],
    ],
  );
});

test('a session that fails is not finished', async (t) => {
  const { endpoint, routes } = await engineWithSessions(t, {
    '/update_weights': [status(500, '{"error":{"message":"rank 3 died"}}')],
  });
  await assert.rejects(clientOf(t, endpoint).update(order, patient()), {
    message: /answered POST \/update_weights with 500: rank 3 died$/,
  });
  assert.deepEqual(routes(), ['collective_rpc', 'start_weight_update', 'update_weights']);
});

test('a session that is cut short is closed: an engine that gets a request in an open one dies', async (t) => {
  for (const cut of ['/start_weight_update', '/update_weights']) {
    const abort = new AbortController();
    const hang: Answer = () => abort.abort();
    const { asked, endpoint } = await engineWithSessions(t, { [cut]: [hang] });
    const update = clientOf(t, endpoint).update(order, { ...patient(), signal: abort.signal });
    await assert.rejects(update, { name: 'AbortedError' });
    const last = asked.at(-1)!;
    assert.deepEqual([last.route, last.body], ['POST /update_weights', '{"update_info":{"links":{}}}']);
  }
});

/** Answers by route; 404 for others. */
const byRoute =
  (answers: Record<string, Answer>): Answer =>
  (request, response) =>
    (answers[request.url!] ?? status(404, '{"detail":"Not Found"}'))(request, response);

test('an engine is told what its weights are called, and asked what it calls them then', async (t) => {
  const said = status(200, '{"weight_version":"qwen@00ff"}');
  const told: [Record<string, Answer>, string | null][] = [
    [{ '/update_weight_version': status(200, '{"success":true}'), '/weight_info': said }, 'qwen@00ff'],
    // What it makes of a name that it refuses is what it says after that.
    [{ '/update_weight_version': status(500), '/weight_info': said }, 'qwen@00ff'],
    [{ '/update_weight_version': status(200), '/weight_info': status(500) }, null],
    [{ '/weight_info': said }, null],
  ];
  for (const [answers, expected] of told) {
    const { asked, endpoint } = await fakeEngine(t, byRoute(answers), { transferEngine: true });
    assert.equal(await clientOf(t, endpoint).label(version, patient()), expected);
    assert.deepEqual(JSON.parse(asked[0]!.body), { new_version: version });
  }
});

test('an engine says whether it is paused, asleep, and of which version; what it does not say is unknown', async (t) => {
  const newer = await fakeEngine(
    t,
    byRoute({
      '/is_paused': status(200, '{"is_paused":true}'),
      '/is_sleeping': status(200, '{"is_sleeping":false}'),
      '/weight_info': status(200, '{"weight_version":"qwen@00ff"}'),
      '/v1/models': status(200, '{"data":[{"id":"m","owned_by":"vllm"}]}'),
    }),
  );
  const said = await clientOf(t, newer.endpoint).state(patient());
  assert.deepEqual(said, { isPaused: true, isSleeping: false, version: 'qwen@00ff' });
  const page = status(200, '<html>', 'text/html; charset=utf-8');
  for (const answer of [status(404, '{"detail":"Not Found"}'), status(500), status(200, '[]'), page]) {
    const { endpoint } = await fakeEngine(t, answer);
    const unsaid = await clientOf(t, endpoint).state(patient());
    assert.deepEqual(unsaid, { isPaused: null, isSleeping: null, version: null });
  }
  const silent = await fakeEngine(t, () => {});
  const unsaid = await clientOf(t, silent.endpoint).state(hasty());
  assert.deepEqual(unsaid, { isPaused: null, isSleeping: null, version: null });
});

test('an SGLang is refused as such, at once', async (t) => {
  const models = status(200, '{"data":[{"id":"m","owned_by":"sglang"}]}');
  const { endpoint } = await fakeEngine(t, byRoute({ '/v1/models': models }));
  const message = `engine ${endpoint} is an SGLang, not a vLLM: set engine "sglang" (--engine sglang)`;
  const client = clientOf(t, endpoint);
  await assert.rejects(client.state(patient()), { name: 'EngineError', message });
  // It has no health route here, and waiting would not change what it is.
  await assert.rejects(client.ready(patient()), { name: 'EngineError', message });
});

test('a draft model is refused before anything is touched, if the workers do not load it apart from the target', async (t) => {
  const rpc = (results: string): Record<string, Answer> => ({ '/collective_rpc': status(200, results) });
  const unsaid =
    'its worker extension does not say that a draft model takes the weights apart from the target';
  const refused: [Record<string, Answer>, string][] = [
    [{ '/collective_rpc': status(500, '{"error":{"message":"no such method"}}') }, unsaid],
    [rpc('{"results":[{"exchanges":2},{"exchanges":1}]}'), unsaid],
    [rpc('{"results":[{"exchanges":2},{"exchanges":1,"why":"it has none"}]}'), 'it has none'],
    [rpc(''), unsaid],
  ];
  for (const [answers, why] of refused) {
    const { asked, endpoint } = await fakeEngine(t, byRoute(answers));
    await assert.rejects(clientOf(t, endpoint, { hasDraftModel: true }).state(patient()), {
      name: 'EngineError',
      message: `engine ${endpoint}: ${why}: leave hasDraftModel (--draft-model) out`,
    });
    const { method } = JSON.parse(asked.find(({ route }) => route === 'POST /collective_rpc')!.body);
    assert.equal(method, 'weightcast_exchanges');
  }
  const twice = await fakeEngine(t, byRoute(rpc('{"results":[{"exchanges":2},{"exchanges":2}]}')));
  await clientOf(t, twice.endpoint, { hasDraftModel: true }).state(patient());
  const transfers = await engineWithSessions(t);
  await clientOf(t, transfers.endpoint, { hasDraftModel: true }).state(patient());
  assert.equal(transfers.routes().filter((route) => route === 'collective_rpc').length, 1);
});

test('an engine that is down when it is asked first says so', async (t) => {
  let failures = 1;
  const { endpoint } = await fakeEngine(t, (request, response) => {
    failures -= 1;
    status(failures < 0 ? 200 : 503)(request, response);
  });
  const client = clientOf(t, endpoint);
  assert.deepEqual(await client.ready(patient()), { wasDown: true });
  assert.deepEqual(await client.ready(patient()), { wasDown: false });
});

test('an engine is paused in the way that is asked for, and resumed', async (t) => {
  const { asked, endpoint } = await fakeEngine(t, byRoute(pauses('true', 'keep')));
  const client = clientOf(t, endpoint);
  await client.pause('keep', patient());
  assert.deepEqual(asked, [
    { route: 'POST /pause?mode=keep', body: '' },
    { route: 'GET /is_paused', body: '' },
  ]);
  const running = await fakeEngine(t, byRoute(pauses('false', 'keep')));
  await clientOf(t, running.endpoint).resume(patient());
  assert.deepEqual(running.asked[0], { route: 'POST /resume', body: '' });
  // An older engine does not say.
  const older = await fakeEngine(t, (request, response) =>
    status(request.url === '/is_paused' ? 404 : 200)(request, response),
  );
  for (const mode of ['abort', 'wait', 'keep'] as const)
    await clientOf(t, older.endpoint).pause(mode, patient());
  await clientOf(t, older.endpoint).resume(patient());
});

function pauses(isPaused: string, mode: string): Record<string, Answer> {
  return {
    [`/pause?mode=${mode}`]: status(200, '{"status":"paused"}'),
    '/resume': status(200, '{"status":"resumed"}'),
    '/is_paused': status(200, `{"is_paused":${isPaused}}`),
  };
}

test('an engine that is not paused or resumed, whatever was answered, is an error', async (t) => {
  const paused = await fakeEngine(t, byRoute(pauses('true', 'wait')));
  await assert.rejects(clientOf(t, paused.endpoint).resume(patient()), {
    name: 'EngineError',
    message: `engine ${paused.endpoint} answered POST /resume with 200, but says that it still is paused`,
  });
  const running = await fakeEngine(t, byRoute(pauses('false', 'wait')));
  await assert.rejects(clientOf(t, running.endpoint).pause('wait', patient()), {
    message: /POST \/pause with 200, but says that it is not paused$/,
  });
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
