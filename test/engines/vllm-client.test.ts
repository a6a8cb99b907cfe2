import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { VllmClient, type VllmClientOptions } from '../../src/engines/vllm.ts';
import { contradiction, type SaidOfWeights } from '../../src/engines/workers-said.ts';
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

const resets = [
  '/reset_prefix_cache?reset_external=true',
  '/reset_prefix_cache',
  '/reset_mm_cache',
  '/reset_encoder_cache',
];

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
  assert.deepEqual(routes.sort(), [...resets].sort());
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

/** `answers` says what the calls to its workers are answered, in turn, and the last one from then on. It says nothing of itself. */
function engineThatAnswers(t: TestContext, ...answers: Answer[]) {
  return engineConfigured(t, undefined, ...answers);
}

async function engineConfigured(t: TestContext, configuration: Answer | undefined, ...answers: Answer[]) {
  const engine = await fakeEngine(
    t,
    (request, response) => {
      const answer =
        request.method === 'GET' ? status(404) : answers.length > 1 ? answers.shift()! : answers[0]!;
      answer(request, response);
    },
    { transferEngine: true, ...(configuration !== undefined && { configuration }) },
  );
  const methods = () => engine.asked.flatMap(({ body }) => (body === '' ? [] : JSON.parse(body).method));
  return { ...engine, methods };
}

const results = (...said: unknown[]) => status(200, JSON.stringify({ results: said }));

test('what a call that failed has left in the way of the question is not its answer', async (t) => {
  const left = status(500, '{"error":{"message":"Worker failed with error of an earlier call"}}');
  const { endpoint, methods } = await engineThatAnswers(t, left, results({ protocol: 2 }, { protocol: 2 }));
  assert.equal((await clientOf(t, endpoint).workers(patient()))!.protocol, 2);
  assert.deepEqual(methods(), ['weightcast_protocol', 'weightcast_protocol']);
});

const configured = (worker_extension_cls: string, backend?: string) =>
  status(
    200,
    JSON.stringify({
      vllm_config: {
        parallel_config: { worker_extension_cls },
        weight_transfer_config: backend === undefined ? null : { backend },
      },
    }),
  );

test('workers that have nothing of weightcast are refused by what the engine says of them, and not asked', async (t) => {
  const theirs = 'checkpoint_engine.worker.VllmColocateWorkerExtension';
  for (const [configuration, message] of [
    [configured(theirs), /are those of checkpoint-engine \(\S+\): set link "checkpoint-engine"/],
    [configured('', 'nccl'), /have nothing of weightcast: start it with --weight-transfer-config/],
    [configured(''), /have nothing of weightcast/],
    [configured(theirs, 'weightcast'), null],
    [configured('mine.Extension'), null],
    [status(200, '{"vllm_config":"a text"}'), null],
  ] as const) {
    const answer = results({ protocol: 2 }, { protocol: 2 });
    const { methods, endpoint } = await engineConfigured(t, configuration, answer);
    const workers = clientOf(t, endpoint).workers(patient());
    if (message === null) assert.equal((await workers)!.protocol, 2);
    else await assert.rejects(workers, { name: 'EngineError', message });
    assert.deepEqual(methods(), message === null ? ['weightcast_protocol'] : []);
  }
});

test("what a failed update of checkpoint-engine's workers leaves in the engine is said", async (t) => {
  const { endpoint } = await fakeEngine(t, status(500, '{"error":{"message":"KeyError"}}'));
  const client = clientOf(t, endpoint, { link: 'checkpoint-engine' });
  await assert.rejects(client.update(order, patient()), {
    message: /with 500: KeyError; if several of its workers failed, .* then start it again$/,
  });
  const one = { ...order, links: { 'GPU-1': links['GPU-1'] } };
  await assert.rejects(client.update(one, patient()), { message: /with 500: KeyError$/ });
});

test('an engine says which version of the worker link its workers understand, before anything else is asked', async (t) => {
  const noMethod = status(500, '{"error":{"message":"no attribute weightcast_protocol"}}');
  for (const [answer, version] of [
    [results({ protocol: 3 }, { protocol: 3 }), 3],
    [results({ protocol: 2 }, { protocol: 2 }), 2],
    // Workers that have no answer, and those that give several, take what the first version has.
    [noMethod, 1],
    [results({ protocol: 1 }, { protocol: 2 }), 1],
    [status(200, ''), 1],
  ] as const) {
    const { endpoint } = await engineThatAnswers(t, answer);
    assert.equal((await clientOf(t, endpoint).workers(patient()))!.protocol, version);
  }
  const foreign = await fakeEngine(t, status(200));
  const options = { link: 'checkpoint-engine' } as const;
  assert.equal(await clientOf(t, foreign.endpoint, options).workers(patient()), null);
  assert.deepEqual(foreign.asked, []);
});

test('what one worker says against an update counts for all of them, and what none says is not known', async (t) => {
  const draft = { takes: 'apart', why: 'set hasDraftModel', refusal: null, unproven: null };
  const one = { protocol: 2, device: 'GPU-1', refusal: null, unproven: null, isSteady: true, draft };
  const { endpoint } = await engineThatAnswers(
    t,
    results(
      { ...one, waiting: { experts: 0.25 }, held: { version: 'a@1' } },
      {
        ...one,
        device: 'GPU-2',
        refusal: 'asleep',
        unproven: 'experts',
        isSteady: false,
        draft: { ...draft, refusal: 'no record' },
        waiting: { experts: 0.5 },
        held: { version: null },
      },
    ),
  );
  assert.deepEqual(await clientOf(t, endpoint).workers(patient()), {
    protocol: 2,
    devices: ['GPU-1', 'GPU-2'],
    refusal: 'asleep',
    unproven: 'experts',
    isSteady: false,
    draft: { ...draft, refusal: 'no record' },
    waiting: { experts: 0.5 },
    held: { version: null },
  });
  const older = await engineThatAnswers(t, results({ protocol: 2 }));
  assert.deepEqual(await clientOf(t, older.endpoint).workers(patient()), {
    protocol: 2,
    devices: [],
    refusal: null,
    unproven: null,
    isSteady: true,
    draft: null,
    waiting: null,
    held: 'unknown',
  });
  const changed = { protocol: 2, held: { version: null, isForeign: true } };
  const foreign = await engineThatAnswers(t, results({ protocol: 2, held: { version: 'a@1' } }, changed));
  assert.equal((await clientOf(t, foreign.endpoint).workers(patient()))!.held, 'foreign');
  const fresh = await engineThatAnswers(t, results({ protocol: 2, held: null }));
  assert.equal((await clientOf(t, fresh.endpoint).workers(patient()))!.held, 'nothing');
});

test('what an engine says of its weights contradicts an instance that has others', () => {
  const of = (held: SaidOfWeights['held'], label: string | null = 'a@1', before: string | null = null) =>
    contradiction('a@1', { held, version: label, before });
  assert.equal(of({ version: 'a@1' }), null);
  assert.equal(of('unknown'), null);
  assert.equal(of('unknown', null), null);
  assert.match(of('unknown', 'b@2', 'a@1')!, /says that its weights are b@2, not a@1: it was started again/);
  assert.match(of({ version: 'b@2' })!, /workers hold b@2, not a@1: someone else has updated/);
  assert.match(of({ version: null })!, /parts of several versions: someone else's update/);
  assert.match(of('nothing', null)!, /no weights since they were started/);
  assert.match(of('foreign')!, /hold other weights than weightcast gave them/);
  // It was not told, or has not heard it.
  assert.equal(of('unknown', 'b@2', 'b@2'), null);
  assert.equal(of({ version: 'a@1' }, 'b@2'), null);
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
  const { endpoint } = await engineThatAnswers(t, results({ protocol: 4 }));
  await assert.rejects(clientOf(t, endpoint).workers(patient()), {
    name: 'EngineError',
    message: /speak version 4 of the worker link, this weightcast version 2: install the same version/,
  });
  const earlier = await engineThatAnswers(t, results({ protocol: 2, face: 'session' }));
  await assert.rejects(clientOf(t, earlier.endpoint).workers(patient()), {
    message: /an earlier build of weightcast.*install the same version/,
  });
});

test("an engine's workers are asked what they hold", async (t) => {
  const extension = await fakeEngine(t, status(200));
  await clientOf(t, extension.endpoint).survey('ipc://@survey', patient());
  const { method, args } = JSON.parse(extension.asked[0]!.body);
  assert.deepEqual([method, args], ['weightcast_survey', ['ipc://@survey']]);
});

const active = results(
  {},
  { error: 'RuntimeError: start_weight_update called while a weight update is already active.' },
);
/** What it waits for between two tries is over at once. */
const hurried: Clock = {
  ...systemClock,
  after: (milliseconds, callback) => systemClock.after(milliseconds < 1_000 ? 0 : milliseconds, callback),
};

test("somebody else's session is waited for, and not closed", async (t) => {
  const { endpoint, methods } = await engineThatAnswers(t, active, active, results({}, {}));
  await clientOf(t, endpoint, { clock: hurried }).update(order, patient());
  assert.deepEqual(methods(), Array(3).fill('update_weights_from_weightcast'));
});

test('a session that nobody finishes is closed, once', async (t) => {
  const [update, close] = ['update_weights_from_weightcast', 'weightcast_close_session'];
  const left = await engineThatAnswers(t, active, active, active, results({}, {}));
  await clientOf(t, left.endpoint, { clock: hurried }).update(order, patient());
  assert.deepEqual(left.methods(), [update, update, update, close, update]);
  const again = await engineThatAnswers(t, active, active, active, results({}, {}), active);
  await assert.rejects(clientOf(t, again.endpoint, { clock: hurried }).update(order, patient()), {
    message: /worker 1 of .* a weight update is already active/,
  });
  assert.deepEqual(again.methods(), [update, update, update, close, update]);
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
  const unsaid = 'its workers do not say that a draft model takes the weights apart from the target';
  const said = (takes: string, why: string | null = null) =>
    results({ protocol: 2, draft: { takes, why, refusal: null, unproven: null } });
  for (const [answer, why] of [
    [status(500, '{"error":{"message":"no such method"}}'), unsaid],
    [results({ protocol: 2 }), unsaid],
    [said('nothing', 'it has tensors of its own'), 'it has tensors of its own'],
    [said('along'), 'this engine has no draft model that takes the weights apart from its target'],
    [said('none'), 'this engine has no draft model that takes the weights apart from its target'],
  ] as const) {
    const { endpoint } = await engineThatAnswers(t, answer);
    await assert.rejects(clientOf(t, endpoint, { hasDraftModel: true }).workers(patient()), {
      name: 'EngineError',
      message: `engine ${endpoint}: ${why}: leave hasDraftModel (--draft-model) out`,
    });
  }
  const foreign = await fakeEngine(t, status(200));
  const options = { hasDraftModel: true, link: 'checkpoint-engine' } as const;
  await assert.rejects(clientOf(t, foreign.endpoint, options).workers(patient()), {
    message: /leave hasDraftModel/,
  });
  const twice = await engineThatAnswers(t, said('apart'));
  const client = clientOf(t, twice.endpoint, { hasDraftModel: true });
  await client.workers(patient());
  await client.update(order, patient());
  assert.deepEqual(JSON.parse(twice.asked.at(-1)!.body).args, [links, 600, true]);
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
