import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type JobFacts, Jobs } from '../../../src/actors/supervisor/jobs.ts';
import { AbortedError, PeerLostError, UsageError } from '../../../src/errors.ts';

const registration = (checkpoint: string): JobFacts => {
  return { kind: 'registration', what: `registering ${checkpoint}`, checkpoint, ranks: [], instances: [] };
};
const update = (checkpoint: string, instance: string, rank = 0): JobFacts => {
  const what = `updating ${instance} to ${checkpoint}`;
  return { kind: 'update', what, checkpoint, ranks: [{ rank }], instances: [instance] };
};

/** A job that runs until `end` is called. */
function running(jobs: Jobs, facts: JobFacts) {
  let end!: () => void;
  let abort!: AbortController;
  const outcome = jobs.run(facts, (given) => {
    abort = given;
    return new Promise<void>((resolve, reject) => {
      end = resolve;
      given.signal.addEventListener('abort', () => reject(new Error('a consequence of the abort')));
    });
  });
  return { outcome, end, abort };
}

test('a job is running from the call of run until its promise has settled', async () => {
  const jobs = new Jobs();
  const { outcome, end } = running(jobs, update('a', 'one'));
  assert.ok(jobs.isBusy('one'));
  assert.throws(() => jobs.checkUnused('a'), { name: 'BusyError', message: /busy updating one to a/ });
  end();
  await outcome;
  assert.ok(!jobs.isBusy('one'));
  jobs.checkUnused('a');
  await assert.rejects(
    jobs.run(update('a', 'one'), async () => {
      throw new UsageError('refused');
    }),
    /refused/,
  );
  assert.ok(!jobs.isBusy('one'));
});

test('drain aborts what runs, resolves when that has ended, and refuses what comes after', async () => {
  const jobs = new Jobs();
  const { outcome } = running(jobs, update('a', 'one'));
  const reason = new AbortedError('the cluster is stopping');
  let rejected = false;
  outcome.catch(() => {
    rejected = true;
  });
  await jobs.drain(reason);
  assert.ok(!jobs.isBusy('one'));
  await assert.rejects(outcome, (error) => error === reason);
  assert.ok(rejected);
  await assert.rejects(
    jobs.run(update('a', 'two'), async () => {}),
    (error) => error === reason,
  );
});

test('after an abort a job fails with its reason, or with an error that says more about it', async () => {
  const jobs = new Jobs();
  const reason = new PeerLostError('rank 0 died');
  const fail = (error: Error) =>
    jobs.run(update('a', 'one'), async (abort) => {
      abort.abort(reason);
      throw error;
    });
  await assert.rejects(fail(new Error('a consequence')), (error) => error === reason);
  const more = new PeerLostError('rank 0 died; instance one is broken', { cause: reason });
  await assert.rejects(fail(more), (error) => error === more);
});

test('a job that conflicts with a running one is refused before it starts', async () => {
  const conflicts: [JobFacts, JobFacts, boolean][] = [
    [registration('a'), registration('b'), true],
    [registration('a'), update('a', 'one'), true],
    [registration('a'), update('b', 'one'), false],
    [update('a', 'one'), registration('a'), true],
    [update('a', 'one'), registration('b'), false],
    [update('a', 'one'), update('b', 'one'), true],
    [update('a', 'one'), update('a', 'two'), false],
  ];
  for (const [first, second, conflict] of conflicts) {
    const jobs = new Jobs();
    const { outcome, end } = running(jobs, first);
    let started = false;
    const attempt = jobs.run(second, async () => {
      started = true;
    });
    const name = `${second.what} while ${first.what}`;
    if (conflict)
      await assert.rejects(
        attempt,
        { message: `the cluster is busy ${first.what}; retry when that has ended` },
        name,
      );
    else await attempt;
    assert.equal(started, !conflict, name);
    end();
    await outcome;
  }
});

test('an aborted job rejects with the reason of the abort', async () => {
  const jobs = new Jobs();
  const [one, two] = [running(jobs, update('a', 'one', 1)), running(jobs, update('a', 'two', 2))];
  jobs.abortWith(1, (what) => new PeerLostError(`rank 1 died while ${what}`));
  await assert.rejects(one.outcome, {
    name: 'PeerLostError',
    message: 'rank 1 died while updating one to a',
  });
  assert.ok(!two.abort.signal.aborted);
  jobs.abortAll(new AbortedError('stopping'));
  await assert.rejects(two.outcome, { name: 'AbortedError', message: 'stopping' });
});
