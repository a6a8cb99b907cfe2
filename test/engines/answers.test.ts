import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import type { EngineClient } from '../../src/engines/engine-client.ts';
import { SglangClient } from '../../src/engines/sglang.ts';
import { VllmClient } from '../../src/engines/vllm.ts';
import { systemClock } from '../../src/native-bridge/clock.ts';
import { type Answer, closing, fakeEngine, patient, status } from './fake-engine.ts';

function clientOf(t: TestContext, endpoint: string, kind: 'vllm' | 'sglang'): EngineClient {
  const options = { endpoint, clock: systemClock, apiKey: 'sk-1' };
  return closing(t, kind === 'vllm' ? new VllmClient(options) : new SglangClient(options));
}

const models = {
  data: [
    { id: 'adapter', parent: 'base' },
    { id: 'base', parent: null },
  ],
};
const prompts = ['one two three', [7, 8, 9]];

/** vLLM's answer to a completion: of each token of the prompt, its log-probability alone. */
const completion = (entries: unknown): Answer =>
  status(200, JSON.stringify({ choices: [{ prompt_logprobs: entries }] }));

function engineWith(t: TestContext, routes: Record<string, Answer>) {
  return fakeEngine(t, (request, response) => (routes[request.url!] ?? status(404))(request, response));
}

test('a vLLM is asked for the log-probabilities of prompts, which nothing but its model answers', async (t) => {
  const entries = [null, { 8: { logprob: -1.5 } }, { 9: { logprob: -0.25 } }];
  const { asked, endpoint } = await engineWith(t, {
    '/v1/models': status(200, JSON.stringify(models)),
    '/v1/completions': completion(entries),
  });
  const answered = await clientOf(t, endpoint, 'vllm').answers(prompts, patient());
  const row = [-1.5, -0.25];
  assert.deepEqual(answered, [{ dataParallelRank: null, logprobs: [row, row] }]);
  assert.ok(asked.every(({ authorization }) => authorization === 'Bearer sk-1'));
  const bodies = asked
    .filter(({ route }) => route === 'POST /v1/completions')
    .map(({ body }) => JSON.parse(body));
  const salts = bodies.map(({ cache_salt }) => cache_salt);
  assert.equal(new Set(salts).size, 2);
  for (const [index, { cache_salt: _, ...body }] of bodies.entries()) {
    const wanted = { model: 'base', max_tokens: 1, temperature: 0, prompt_logprobs: 0 };
    assert.deepEqual(body, { ...wanted, prompt: prompts[index] });
  }
});

test('each data-parallel rank of a vLLM is asked that its server knows', async (t) => {
  const ranks: string[] = [];
  const { endpoint } = await engineWith(t, {
    '/v1/models': status(200, JSON.stringify(models)),
    '/get_world_size': status(200, '{"world_size":6}'),
    '/get_world_size?include_dp=false': status(200, '{"world_size":2}'),
    '/v1/completions': (request, response) => {
      const rank = request.headers['x-data-parallel-rank'] as string;
      ranks.push(rank);
      const refusal = '{"error":{"message":"data_parallel_rank 2 is out of range [0, 2)."}}';
      if (rank === '2') return status(400, refusal)(request, response);
      completion([null, { 8: { logprob: -Number(rank) - 1 } }, {}])(request, response);
    },
  });
  const answered = await clientOf(t, endpoint, 'vllm').answers([[7, 8, 9]], patient());
  assert.deepEqual(ranks.sort(), ['0', '1', '2']);
  assert.deepEqual(answered, [
    { dataParallelRank: 0, logprobs: [[-1, Number.NaN]] },
    { dataParallelRank: 1, logprobs: [[-2, Number.NaN]] },
  ]);
});

test('an engine says without a prompt whether it would answer any', async (t) => {
  for (const kind of ['vllm', 'sglang'] as const) {
    const named = { '/v1/models': status(200, JSON.stringify(models)) };
    const answering = await engineWith(t, named);
    const answered = await clientOf(t, answering.endpoint, kind).answers([], patient());
    assert.deepEqual(answered, [{ dataParallelRank: null, logprobs: [] }]);
    const locked = { '/v1/models': status(401, '{"error":"Unauthorized"}') };
    const { endpoint } = await engineWith(t, locked);
    await assert.rejects(clientOf(t, endpoint, kind).answers([], patient()), {
      name: 'EngineError',
      message: `engine ${endpoint} answered GET /v1/models with 401: Unauthorized`,
    });
  }
});

test('a vLLM that gives no log-probabilities, or refuses the prompt, is an error', async (t) => {
  const named = { '/v1/models': status(200, JSON.stringify(models)) };
  const without = await engineWith(t, { ...named, '/v1/completions': completion(null) });
  await assert.rejects(clientOf(t, without.endpoint, 'vllm').answers(prompts, patient()), {
    name: 'EngineError',
    message: /answered POST \/v1\/completions without prompt_logprobs$/,
  });
  const refusal = status(400, '{"error":{"message":"the prompt is too long"}}');
  const refusing = await engineWith(t, { ...named, '/v1/completions': refusal });
  await assert.rejects(clientOf(t, refusing.endpoint, 'vllm').answers(prompts, patient()), {
    message: /POST \/v1\/completions with 400: the prompt is too long$/,
  });
  const nameless = await engineWith(t, { '/v1/models': status(200, '{"data":[]}') });
  await assert.rejects(clientOf(t, nameless.endpoint, 'vllm').answers(prompts, patient()), {
    message: /names no model/,
  });
});

test('an SGLang is asked for the log-probabilities of prompts from their first token on, on each rank', async (t) => {
  const logprobs = [
    [null, 7, null],
    [-1.5, 8, null],
    [-0.25, 9, null],
  ];
  const { asked, endpoint } = await engineWith(t, {
    '/get_server_info': status(200, '{"dp_size":2}'),
    '/generate': status(200, JSON.stringify({ meta_info: { input_token_logprobs: logprobs } })),
  });
  const answered = await clientOf(t, endpoint, 'sglang').answers(prompts, patient());
  const row = [-1.5, -0.25];
  assert.deepEqual(
    answered,
    [0, 1].map((dataParallelRank) => ({ dataParallelRank, logprobs: [row, row] })),
  );
  const bodies = asked.filter(({ route }) => route === 'POST /generate').map(({ body }) => JSON.parse(body));
  const common = {
    sampling_params: { max_new_tokens: 1, temperature: 0 },
    return_logprob: true,
    logprob_start_len: 0,
  };
  assert.equal(bodies.length, 4);
  assert.deepEqual(
    bodies.find(({ text, data_parallel_rank: rank }) => text !== undefined && rank === 0),
    { text: prompts[0], ...common, data_parallel_rank: 0 },
  );
  assert.deepEqual(
    bodies.find(({ input_ids: ids, data_parallel_rank: rank }) => ids !== undefined && rank === 1),
    { input_ids: prompts[1], ...common, data_parallel_rank: 1 },
  );
});
