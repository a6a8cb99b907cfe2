import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { SimulatedEngine } from '../../simulation/engine.ts';
import type { AnswersAsked, ExpectedAnswer } from '../../src/actors/protocol/answers.ts';
import { expectViolation, type Fixture, versionsOf, withCluster } from './harness.ts';

const prompts = ['one two three four', 'five six'];
// Without the digests of what workers hold, which would catch it before.
const asking = (answers: AnswersAsked) => ({ verify: { arrived: true, installed: false, answers } });

function answersOf(engine: SimulatedEngine): ExpectedAnswer[] {
  const logprobs = engine.answersTo(prompts);
  return prompts.map((prompt, index) => ({ prompt, logprobs: logprobs[index]! }));
}

const updateOne = ({ user }: Fixture, answers: AnswersAsked, timeoutMilliseconds = 60_000) =>
  user.update('a', { instances: ['engine-1'], ...asking(answers), timeoutMilliseconds });

async function stateOf({ status }: Fixture, name: string) {
  return (await status()).instances.find((instance) => instance.name === name)!;
}

test('a model that loads right bytes wrongly is caught by its answers, and serves nothing', async () => {
  await withCluster({ pauses: true }, async (fixture) => {
    const { world, user, succeeds, fails } = fixture;
    const [first, second] = world.engines;
    await succeeds(user.update('a', { instances: ['engine-0'] }));
    const answers = answersOf(first!);
    assert.equal((await succeeds(updateOne(fixture, answers))).instances[0]?.proofs.answering, 'holds');

    second!.workers[1]!.nextLoad = 'misload';
    const words =
      /^instance engine-1 does not answer as expected: prompt [12] of 2 .*; instance engine-1 is broken and stays paused.*; instance engine-1 answered requests for 0\.\d s before that$/;
    await fails(updateOne(fixture, answers), 'WEIGHTCAST_VERIFICATION', words);
    assert.ok(second!.isPaused);
    const { state, isPaused } = await stateOf(fixture, 'engine-1');
    assert.deepEqual([state, isPaused], ['broken', true]);

    const agreement = { agreeWith: 'engine-0', prompts };
    const report = await succeeds(updateOne(fixture, agreement));
    assert.equal(report.instances[0]?.proofs.answering, 'holds');
    assert.ok(!second!.isPaused);
  });
});

test('an engine that would not answer is refused with the weights that it has, also while it is paused', async () => {
  await withCluster({ pauses: true }, async (fixture) => {
    const { world, user, succeeds, fails } = fixture;
    const [first, second] = world.engines;
    await succeeds(user.update('a'));
    const answers = answersOf(first!);
    second!.refusesQuestions = true;
    await fails(
      updateOne(fixture, answers),
      'WEIGHTCAST_ENGINE',
      /^engine engine-1 answered 500: Unauthorized/,
    );
    const { state, version, isPaused } = await stateOf(fixture, 'engine-1');
    assert.deepEqual(
      [state, version?.checkpoint, isPaused, second!.isPaused],
      ['serving', 'a', false, false],
    );

    second!.refusesQuestions = false;
    second!.workers[1]!.nextLoad = 'misload';
    await fails(updateOne(fixture, answers), 'WEIGHTCAST_VERIFICATION', /broken and stays paused/);
    await succeeds(updateOne(fixture, answers));
  });
});

test('an engine that is not paused for an update is, if it answers wrongly, and the next update resumes it', async () => {
  await withCluster({}, async (fixture) => {
    const { world, user, succeeds, fails } = fixture;
    const [first, second] = world.engines;
    await succeeds(user.update('a', { instances: ['engine-0'] }));
    second!.workers[0]!.nextLoad = 'misload';
    await fails(updateOne(fixture, answersOf(first!)), 'WEIGHTCAST_VERIFICATION', /broken and stays paused/);
    assert.ok(second!.isPaused);
    await succeeds(user.update('a'));
    assert.ok(!second!.isPaused);
  });
});

test('while its answers are compared an instance is verifying, and has no version', async () => {
  await withCluster({ pauses: true }, async (fixture) => {
    const { world, user, succeeds, fails, until, wait } = fixture;
    const [first, second] = world.engines;
    await succeeds(user.update('a', { instances: ['engine-0'] }));
    second!.nextAnswers = 'silence';
    const update = updateOne(fixture, answersOf(first!), 10_000);
    await until('the engine is paused', () => second!.isPaused);
    await until('the engine is resumed', () => !second!.isPaused);
    await wait(50);
    const { state, version } = await stateOf(fixture, 'engine-1');
    assert.deepEqual([state, version], ['verifying', null]);
    // One that does not answer is not proved to be right.
    await fails(
      update,
      'WEIGHTCAST_DEADLINE',
      /did not answer within .*is broken.*answered requests for .* before that$/,
    );
    assert.ok(second!.isPaused);
  });
});

test('an engine that does not answer when the cluster stops is paused again', async () => {
  await withCluster({ pauses: true }, async (fixture) => {
    const { cluster, world, user, succeeds, fails, until } = fixture;
    const [first, second] = world.engines;
    await succeeds(user.update('a', { instances: ['engine-0'] }));
    second!.nextAnswers = 'silence';
    const update = updateOne(fixture, answersOf(first!));
    await until('the engine is paused', () => second!.isPaused);
    await until('the engine is resumed', () => !second!.isPaused);
    const startedAt = world.clock.now();
    await cluster.complete(cluster.drain());
    assert.ok(world.clock.now() - startedAt < 15_000);
    await fails(update, 'WEIGHTCAST_ABORTED', /the cluster is stopping.*is broken and stays paused/);
    assert.ok(second!.isPaused);
  });
});

test('a rank that dies while answers are compared changes nothing: it has done its part', async () => {
  await withCluster({ pauses: true }, async (fixture) => {
    const { cluster, world, user, succeeds, until } = fixture;
    const [first, second] = world.engines;
    await succeeds(user.update('a', { instances: ['engine-0'] }));
    const update = updateOne(fixture, answersOf(first!));
    await until('the engine is paused', () => second!.isPaused);
    await until('the engine is resumed', () => !second!.isPaused);
    cluster.ranks.get(3)!.kill();
    assert.equal((await succeeds(update)).instances[0]?.proofs.answering, 'holds');
  });
});

test('an instance whose answers others are compared with is neither updated nor removed meanwhile', async () => {
  await withCluster({ pauses: true }, async (fixture) => {
    const { world, user, succeeds, fails, until } = fixture;
    await succeeds(user.update('a', { instances: ['engine-0'] }));
    const update = updateOne(fixture, { agreeWith: 'engine-0', prompts });
    await until('the engine is paused', () => world.engines[1]!.isPaused);
    await fails(user.removeInstance('engine-0'), 'WEIGHTCAST_BUSY', /engine-0 is being updated/);
    await fails(
      user.update('a', { instances: ['engine-0'] }),
      'WEIGHTCAST_BUSY',
      /the cluster is busy updating/,
    );
    assert.equal((await succeeds(update)).instances[0]?.proofs.answering, 'holds');
  });
});

test('an engine that cannot be asked at all is refused, and so is an agreement with another version', async () => {
  await withCluster({ pauses: true }, async (fixture) => {
    const { world, user, succeeds, fails, status } = fixture;
    const agreement = { agreeWith: 'engine-0', prompts };
    await fails(
      updateOne(fixture, agreement),
      'WEIGHTCAST_USAGE',
      /engine-0 serves no known version, not a@/,
    );
    await succeeds(user.update('a', { instances: ['engine-0'] }));
    // Nothing is touched before the other one has answered.
    world.engines[0]!.nextAnswers = 'error';
    await fails(updateOne(fixture, agreement), 'WEIGHTCAST_ENGINE', /engine-0 answered 500/);
    assert.deepEqual(versionsOf(await status()), ['a', null]);
    assert.equal((await stateOf(fixture, 'engine-1')).state, 'unknown');
    await fails(
      user.update('a', { instances: ['engine-0'], ...asking(agreement) }),
      'WEIGHTCAST_USAGE',
      /instance engine-0 is itself to be updated/,
    );
  });
});

test('an instance that gives no probability to a token is nothing to agree with', async () => {
  await withCluster({ pauses: true }, async (fixture) => {
    const { world, user, succeeds, fails } = fixture;
    const [first] = world.engines;
    await succeeds(user.update('a', { instances: ['engine-0'] }));
    const answersTo = first!.answersTo.bind(first);
    first!.answersTo = (asked) => answersTo(asked).map(([, ...others]) => [Number.NaN, ...others]);
    await fails(
      updateOne(fixture, { agreeWith: 'engine-0', prompts }),
      'WEIGHTCAST_VERIFICATION',
      /does not answer as expected: .* token 2: log-probability -\d\S+, expected none/,
    );
  });
});

test('instances that agree about no token prove nothing', async () => {
  await withCluster({ pauses: true }, async (fixture) => {
    const { user, succeeds, fails } = fixture;
    await succeeds(user.update('a', { instances: ['engine-0'] }));
    const words = /prompt 1 of 1 \("one"\), has one token/;
    await fails(
      updateOne(fixture, { agreeWith: 'engine-0', prompts: ['one'] }),
      'WEIGHTCAST_VERIFICATION',
      words,
    );
  });
});

test('an engine that is told a version it does not hold is a violation', async () => {
  await expectViolation(/engine-0 is told b@1, and holds no version/, {}, async ({ cluster, world }) => {
    const client = world.engines[0]!.client(world.clock);
    const options = { timeoutMilliseconds: 1_000, signal: new AbortController().signal };
    await cluster.complete(client.label('b@1', options));
  });
});
