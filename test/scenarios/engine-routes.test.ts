import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { deviceCapacity, TestEngine } from './engine-harness.ts';

/** Shared by all tests. */
const engine = await TestEngine.start({ after });

test('the routes answer like those of vLLM', async () => {
  assert.deepEqual(await engine.get('/health'), { status: 200, body: '' });
  assert.deepEqual((await engine.get('/get_world_size')).body, { world_size: 2 });
  const models = (await engine.get('/v1/models')).body;
  assert.equal(models.object, 'list');
  assert.deepEqual(
    models.data.map(({ id }: { id: string }) => id),
    ['tiny'],
  );
  assert.equal((await engine.post('/reset_prefix_cache')).status, 200);
  assert.deepEqual(await engine.get('/nowhere'), { status: 404, body: { detail: 'Not Found' } });
});

test('a completion has the fields of vLLM, with one choice per prompt', async () => {
  const request = { model: 'tiny', prompt: ['one two', 'three'], max_tokens: 3, temperature: 0 };
  const { status, body } = await engine.post('/v1/completions', request);
  assert.equal(status, 200);
  assert.match(body.id, /^cmpl-/);
  assert.deepEqual([body.object, body.model], ['text_completion', 'tiny']);
  assert.deepEqual(body.usage, { prompt_tokens: 3, completion_tokens: 6, total_tokens: 9 });
  assert.equal(body.choices.length, 2);
  for (const [index, choice] of body.choices.entries()) {
    assert.deepEqual([choice.index, choice.finish_reason], [index, 'length']);
    assert.match(choice.text, /^( [a-z]+){3}$/);
  }
});

test('requests that vLLM rejects are rejected with its status and error body', async () => {
  for (const [path, body, status, words] of [
    ['/v1/completions', { model: 'other', prompt: 'x' }, 404, /The model `other` does not exist/],
    ['/v1/completions', { model: 'tiny' }, 400, /prompt/],
    ['/v1/completions', { prompt: 'x', max_tokens: 0 }, 400, /max_tokens/],
    ['/v1/completions', { prompt: 'x', stream: true }, 400, /stream/],
    ['/v1/completions', '{"prompt": ', 400, /JSON decode error/],
    ['/v1/completions', '[]', 400, /object/],
    ['/collective_rpc', 'nonsense', 400, /JSON decode error/],
    ['/collective_rpc', { args: [] }, 400, /Missing 'method' in request body/],
    ['/collective_rpc', { method: 'weight_digests', timeout: -1 }, 400, /timeout/],
    [
      '/collective_rpc',
      { method: 'no_such' },
      500,
      /NotImplementedError: Method 'no_such' is not implemented/,
    ],
    ['/collective_rpc', { method: 'weight_digests', args: [1] }, 500, /TypeError/],
    ['/collective_rpc', { method: 'weight_digests', kwargs: { a: 1 } }, 500, /TypeError/],
    ['/collective_rpc', { method: 'dump_weights', args: [] }, 500, /TypeError/],
    ['/collective_rpc', { method: 'dump_weights', args: ['/nowhere/at/all'] }, 500, /\/nowhere\/at\/all/],
    ['/pause?mode=gently', undefined, 400, /mode/],
  ] as const) {
    const answer = await engine.post(path, body);
    assert.equal(answer.status, status, `${path} ${JSON.stringify(body)}: ${JSON.stringify(answer.body)}`);
    assert.match(answer.body.error.message, words);
    assert.equal(answer.body.error.code, status);
    assert.equal(typeof answer.body.error.type, 'string');
  }
  assert.equal((await engine.get('/health')).status, 200);
  assert.ok((await engine.complete('after all that')).text);
});

test('a body is parsed as JSON whatever its content type', async () => {
  for (const type of ['application/json', 'text/plain', 'application/x-www-form-urlencoded']) {
    const response = await fetch(`${engine.running.endpoint}/collective_rpc`, {
      method: 'POST',
      headers: { 'content-type': type },
      body: JSON.stringify({ method: 'device_memory' }),
    });
    assert.equal(response.status, 200, type);
  }
});

test('device_memory returns the free and total memory of each worker', async () => {
  const { body } = await engine.rpc('device_memory', [], null);
  assert.equal(body.results.length, 2);
  for (const { free, total } of body.results) {
    assert.equal(total, deviceCapacity);
    assert.ok(free > 0 && free < total, 'the parameters take some of it');
  }
});
