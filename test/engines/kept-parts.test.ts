import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { wholeCuts } from '../../src/checkpoint/cuts.ts';
import type { PartsRecord } from '../../src/engines/worker-link/worker-side.ts';
import { bindLink, buffer, receive, tensors } from './harness.ts';

const cuts = wholeCuts(1);
const record: PartsRecord = { token: 'mine', kept: () => ({ token: 'mine', cuts }) };
const refusal = { name: 'PartsRefusedError', code: 'WEIGHTCAST_PARTS_REFUSED' };

test('a worker that is asked says what it keeps when it has finished, and with the next update takes parts', async (t) => {
  const first = await bindLink(t, { parts: true });
  receive(first.address, { record });
  await first.open(buffer);
  await first.load(tensors);
  await first.release();
  await first.finish();
  assert.deepEqual(first.kept, { token: 'mine', cuts });

  const second = await bindLink(t, { kept: 'mine' });
  const loaded: unknown[] = [];
  receive(second.address, { record, load: async (announced) => void loaded.push(...announced) });
  await second.open(buffer);
  const part = { ...tensors[0]!, part: [0, 1, 1] as const };
  await second.load([part]);
  await second.release();
  await second.finish();
  assert.deepEqual(loaded, [part]);
  assert.equal(second.kept, null, 'what it keeps is learned from whole tensors');
});

test('a worker that is not asked, or has no record, says nothing of parts', async (t) => {
  for (const [parts, receiver] of [
    [false, { record }],
    [true, {}],
  ] as const) {
    const link = await bindLink(t, { parts });
    receive(link.address, receiver);
    await link.open(buffer);
    await link.release();
    await link.finish();
    assert.equal(link.kept, null);
  }
});

async function refused(t: TestContext, receiver: { readonly record?: PartsRecord }, message: RegExp) {
  const link = await bindLink(t, { kept: 'mine' });
  const { calls, received } = receive(link.address, receiver);
  await assert.rejects(link.open(buffer), { ...refusal, message });
  await assert.rejects(link.load(tensors), refusal);
  await link.abort('it is tried with whole tensors');
  await assert.rejects(received);
  assert.deepEqual(calls, [], 'the buffer was not opened');
}

test('a worker refuses parts by a record that it has not made, before it opens the buffer', async (t) => {
  const message =
    /^the engine worker on device HOST-test-0 failed opening the link buffer: .*keeps no record of the parts/;
  await refused(t, { record: { ...record, token: 'another' } }, message);
  await refused(t, { record: { ...record, token: null } }, message);
  await refused(t, {}, message);
});
