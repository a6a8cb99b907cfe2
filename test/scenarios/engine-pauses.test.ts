import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import { type Answer, TestEngine } from './engine-harness.ts';

/** Shared by all tests, each of which leaves it resumed. */
const engine = await TestEngine.start({ after });

/** Words that take several hundred calls of the workers, so that a pause comes in the middle. */
const long = 4_096;

/** Whether the response does not arrive for a while. */
async function isHeldBack(answer: Promise<unknown>): Promise<boolean> {
  const held = new Promise((resolve) => setTimeout(() => resolve('held'), 300));
  return (await Promise.race([answer, held])) === 'held';
}

function ask(prompt: string, length: number): Promise<Answer> {
  return engine.post('/v1/completions', { prompt, max_tokens: length });
}

const wordsIn = ({ body }: Answer): number => body.choices[0].text.split(' ').length - 1;
const reasonOf = ({ body }: Answer): string => body.choices[0].finish_reason;

test('a paused engine holds requests back until it is resumed', async () => {
  const { text } = await engine.complete('x');
  assert.deepEqual((await engine.get('/is_paused')).body, { is_paused: false });
  assert.deepEqual(await engine.post('/pause?mode=keep&clear_cache=true'), {
    status: 200,
    body: { status: 'paused' },
  });
  assert.deepEqual((await engine.get('/is_paused')).body, { is_paused: true });
  const held = engine.complete('x');
  assert.ok(await isHeldBack(held));
  assert.equal((await engine.get('/health')).status, 200);
  assert.deepEqual(await engine.post('/resume'), { status: 200, body: { status: 'resumed' } });
  assert.equal((await held).text, text);
});

test('a pause with mode=abort ends running completions with the words they have', async () => {
  const answer = ask('x', long);
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.equal((await engine.post('/pause')).status, 200);
  const aborted = await answer;
  await engine.post('/resume');
  assert.equal(reasonOf(aborted), 'abort');
  assert.ok(wordsIn(aborted) < long);
});

test('a pause with mode=wait lets running completions finish first', async () => {
  const answer = ask('x', long);
  let answered = false;
  answer.then(() => {
    answered = true;
  });
  await new Promise((resolve) => setTimeout(resolve, 50));
  await engine.post('/pause?mode=wait');
  const whole = await answer;
  await engine.post('/resume');
  assert.ok(answered);
  assert.deepEqual([reasonOf(whole), wordsIn(whole)], ['length', long]);
});

test('a pause with mode=keep suspends running completions, whose version shows an update in between', async () => {
  const { version } = await engine.complete('x');
  const answer = ask('x', long);
  await new Promise((resolve) => setTimeout(resolve, 50));
  await engine.post('/pause?mode=keep');
  assert.ok(await isHeldBack(answer), 'the completion did not finish before the pause');
  await engine.install(engine.makeModel(1), 'v@1');
  assert.ok(await isHeldBack(answer));
  await engine.post('/resume');
  const kept = await answer;
  assert.deepEqual([reasonOf(kept), wordsIn(kept)], ['length', long]);
  assert.equal(kept.body.system_fingerprint, `${version}+v@1`);
});

test('a client that disconnects while its request is held back leaves the queue', async () => {
  await engine.post('/pause');
  const disconnect = new AbortController();
  // Fills the queue, so that one more request is refused.
  const held = Array.from({ length: 4 }, () =>
    fetch(`${engine.running.endpoint}/v1/completions`, {
      method: 'POST',
      body: JSON.stringify({ prompt: Array.from({ length: 256 }, () => 'x'), max_tokens: 1 }),
      signal: disconnect.signal,
    }),
  );
  await new Promise((resolve) => setTimeout(resolve, 500));
  const refused = await ask('x', 1);
  assert.equal(refused.status, 503);
  assert.match(refused.body.error.message, /1024 requests are already waiting/);
  disconnect.abort();
  await Promise.allSettled(held);
  await new Promise((resolve) => setTimeout(resolve, 300));
  const waiting = ask('x', 1);
  assert.ok(await isHeldBack(waiting));
  await engine.post('/resume');
  assert.equal((await waiting).status, 200);
});
