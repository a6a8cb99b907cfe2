/** An update ends within its timeout, wherever it hangs. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { allArrived } from '../../simulation/all-arrived.ts';
import { checkpointAt } from '../../simulation/checkpoint.ts';
import type { WorldOptions } from '../../simulation/world.ts';
import { deadlines } from '../../src/actors/protocol/deadlines.ts';
import { bucketBytes, type Fixture, model, withCluster } from './harness.ts';

const timeoutMilliseconds = 5_000;
/** Virtual time for messages in both directions. */
const slack = 2_000;

interface Hang {
  readonly what: string;
  readonly options?: Partial<WorldOptions>;
  /** Called before the update starts. */
  readonly before?: (fixture: Fixture) => unknown;
  /** Called right after the update has been requested. */
  readonly hang: (fixture: Fixture) => unknown;
  readonly undo?: (fixture: Fixture) => unknown;
  /** Default: that of a deadline. */
  readonly code?: string;
  readonly message: RegExp;
  /** Whether ranks are unreachable, so that the update also waits for their cleanup until `deadlines.abort`. */
  readonly unreachable?: true;
}

/** Delays a kind of message, and what follows it on the same lane, by twenty seconds. */
function delayMessages(type: string) {
  return ({ world }: Fixture) => {
    world.extraDelay = ({ envelope }) =>
      (envelope as { body?: { type?: string } }).body?.type === type ? 20_000 : 0;
  };
}

const hangs: readonly Hang[] = [
  {
    what: 'an engine is down',
    // A delay in what time is left for the other engine would be another failure.
    options: { isCalm: true },
    hang: ({ world }) => world.engines[0]!.kill(),
    undo: ({ world }) => world.engines[0]!.restart(),
    message: /^engine engine-0 is not ready after \d+ ms/,
  },
  {
    what: 'ranks do not receive prepare',
    hang: delayMessages('prepare'),
    message: /^updating to a took longer than 5000 ms, waiting for ranks to prepare/,
    unreachable: true,
  },
  {
    what: 'ranks do not receive open',
    hang: delayMessages('open'),
    message: /^updating to a took longer than 5000 ms, waiting for ranks to prepare/,
    unreachable: true,
  },
  {
    what: 'an engine does not answer the pause call',
    options: { pauses: true },
    hang: ({ world }) => {
      world.engines[0]!.nextPause = 'silence';
    },
    message: /instance engine-0 may still pause, which it was asked to and has not answered/,
  },
  {
    what: 'an engine does not answer the update call',
    options: { isCalm: true },
    hang: ({ world }) => {
      world.engines[0]!.nextCall = 'silence';
    },
    code: 'WEIGHTCAST_WORKER_LINK',
    message:
      /SIM-0 did not answer open within \d+ ms; unchanged: engine-0; the update succeeded in engine-1$/,
  },
  {
    what: 'ranks do not receive stream',
    hang: delayMessages('stream'),
    message: /^engine engine-\d did not answer within \d+ ms/,
    unreachable: true,
  },
  {
    what: 'an engine worker hangs on a bucket',
    options: { isCalm: true },
    hang: ({ world }) => {
      world.engines[0]!.workers[0]!.nextLoad = 'hang';
    },
    undo: ({ world }) => world.engines[0]!.restart(),
    code: 'WEIGHTCAST_WORKER_LINK',
    message: /SIM-0 did not answer load within \d+ ms; .*the update succeeded in engine-1$/,
  },
  {
    what: 'an upload takes a minute',
    hang: ({ world }) => {
      world.devices[0]!.slowdown = 3e3;
    },
    undo: ({ world }) => {
      world.devices[0]!.slowdown = 1;
    },
    message: /^engine engine-\d did not answer within \d+ ms/,
    unreachable: true,
  },
  {
    what: 'a post-hook takes minutes',
    hang: async ({ world, until }) => {
      const [engine] = world.engines;
      await until('engine-0 receives', () => engine!.isBroken);
      await until('the slots of its ranks are released', () =>
        [0, 1].every((rank) => world.devices[rank]!.used === 0),
      );
      for (const rank of [0, 1]) world.devices[rank]!.slowdown = 1e4;
    },
    undo: ({ world }) => {
      for (const device of world.devices) device.slowdown = 1;
      world.engines[0]!.restart();
    },
    code: 'WEIGHTCAST_WORKER_LINK',
    message: /SIM-0 did not answer finish within \d+ ms; .*the update succeeded in engine-1$/,
  },
  {
    what: 'an engine does not answer the resume call',
    options: { pauses: true },
    hang: ({ world }) => {
      world.engines[0]!.nextResume = 'silence';
    },
    undo: ({ world }) => world.engines[0]!.restart(),
    code: 'WEIGHTCAST_ENGINE',
    message:
      /^updating to a succeeded, but instance engine-0 is still paused \(engine engine-0 did not answer/,
  },
];

for (const { what, options, before, hang, undo, code, message, unreachable } of hangs) {
  test(`an update ends in time although ${what}`, async () => {
    await withCluster(options ?? {}, async (fixture) => {
      const { world, user, fails, succeeds, wait } = fixture;
      await before?.(fixture);
      const startedAt = world.clock.now();
      const update = user.update('a', { timeoutMilliseconds, bucketBytes, atomic: true });
      await hang(fixture);
      await fails(update, code ?? 'WEIGHTCAST_DEADLINE', message);
      const most = timeoutMilliseconds + slack + (unreachable ? deadlines.abort : 0);
      assert.ok(world.clock.now() - startedAt < most, `${world.clock.now() - startedAt} ms`);
      world.extraDelay = () => 0;
      await undo?.(fixture);
      await wait(60_000);
      assert.ok(allArrived(await succeeds(user.update('a'))));
    });
  });
}

for (const [given, milliseconds] of [
  [{ stepTimeoutMilliseconds: 2_500 }, 2_500],
  // Two minutes, and a second for each GB of 16 tensors of 4 MiB.
  [{}, 120_068],
] as const) {
  test(`a worker that hangs fails an update with more time after ${milliseconds} ms`, async () => {
    await withCluster({}, async ({ world, user, spares, succeeds }) => {
      world.engines[0]!.workers[0]!.nextLoad = 'hang';
      const startedAt = world.clock.now();
      const update = user.update('a', { timeoutMilliseconds: 600_000, bucketBytes, ...given });
      const message = new RegExp(`SIM-0 did not answer load within ${milliseconds} ms`);
      await spares(update, 'engine-0', 'WEIGHTCAST_WORKER_LINK', message);
      assert.ok(
        world.clock.now() - startedAt < milliseconds + 2 * slack,
        'the other one is not kept waiting',
      );
      world.engines[0]!.restart();
      await succeeds(user.update('a'));
    });
  });
}

test('an update that waits for the workers of an engine until its end names the instance', async () => {
  await withCluster({}, async ({ world, user, fails }) => {
    for (const worker of world.engines[0]!.workers) worker.isMissing = true;
    const patient = { stepTimeoutMilliseconds: 60_000, connectTimeoutMilliseconds: 60_000 };
    const update = user.update('a', { timeoutMilliseconds, ...patient, instances: ['engine-0'] });
    const message =
      /^updating engine-0 to a took longer than 5000 ms, waiting for the engine of engine-0 to install it/;
    await fails(update, 'WEIGHTCAST_DEADLINE', message);
    world.engines[0]!.restart();
  });
});

test('an engine that does not answer when its workers have everything is given up after the time of a step', async () => {
  await withCluster({}, async ({ world, user, spares, succeeds }) => {
    world.engines[0]!.nextCall = 'unanswered';
    const startedAt = world.clock.now();
    const given = { timeoutMilliseconds: 600_000, stepTimeoutMilliseconds: 3_000, bucketBytes };
    const message =
      /^engine engine-0 has not answered the update call 3000 ms after its workers had everything/;
    await spares(user.update('a', given), 'engine-0', 'WEIGHTCAST_DEADLINE', message);
    assert.ok(world.clock.now() - startedAt < 3_000 + 2 * slack, `${world.clock.now() - startedAt} ms`);
    await succeeds(user.update('a'));
  });
});

test('an engine that is down for minutes is waited for by an update that has hours', async () => {
  await withCluster({}, async ({ world, user, succeeds, spares }) => {
    const [engine] = world.engines;
    engine!.kill();
    world.clock.after(600_000, () => engine!.restart());
    const message = /engine-0 is not ready after 120000 ms/;
    const usual = { timeoutMilliseconds: 600_000 };
    await spares(user.update('a', usual), 'engine-0', 'WEIGHTCAST_DEADLINE', message);
    const report = await succeeds(user.update('a', { timeoutMilliseconds: 7_200_000 }));
    assert.ok(report.instances.every(({ outcome }) => outcome === 'updated'));
  });
});

test('engine workers wait for their ranks until the time of the update is over', async () => {
  await withCluster({}, async ({ world, user, succeeds }) => {
    await succeeds(user.update('a', { timeoutMilliseconds: 7_200_000 }));
    const { longestSilence } = world.links;
    assert.ok(longestSilence > 7_200 && longestSilence <= 7_260, `${longestSilence} s`);
  });
});
for (const [what, given] of [
  ['whose deadline leaves little time', { timeoutMilliseconds: 8_000, stepTimeoutMilliseconds: 3_000 }],
  ['whose deadline is not given', { timeoutMilliseconds: 20_000 }],
] as const) {
  test(`a worker that hangs, and ${what}, leaves time to update those that share its broadcasts`, async () => {
    await withCluster({ ranksPerHost: 4, isCalm: true }, async ({ world, user, spares, succeeds }) => {
      const [first] = world.engines;
      first!.workers[0]!.nextLoad = 'hang';
      const message = /SIM-0 did not answer load within \d+ ms/;
      await spares(
        user.update('a', { bucketBytes, ...given }),
        'engine-0',
        'WEIGHTCAST_WORKER_LINK',
        message,
      );
      first!.restart();
      await succeeds(user.update('a'));
    });
  });
}

const joins = {
  instances: [
    [0, 1],
    [2, 3],
  ],
  firstInstances: 1,
  reach: 'host',
  linkRate: 1e5,
  checkpoints: [checkpointAt('/models/a', model, false)],
} as const;

for (const [what, hang] of [
  ['a source does not receive its lease', delayMessages('lease')],
  ['receivers do not receive next-reads', delayMessages('next-reads')],
  ['the network between hosts is silent', ({ world }: Fixture) => world.silence(world.hosts[0]!)],
] as const) {
  test(`a join ends in time although ${what}`, async () => {
    await withCluster(joins, async (fixture) => {
      const { cluster, world, user, fails, succeeds, wait } = fixture;
      await succeeds(user.addInstance(cluster.instance(1)));
      const startedAt = world.clock.now();
      const join = user.update('a', { timeoutMilliseconds, instances: ['engine-1'] });
      hang(fixture);
      await fails(join, /WEIGHTCAST_(DEADLINE|PEER_LOST)/, /./);
      const most = timeoutMilliseconds + slack + deadlines.abort;
      assert.ok(world.clock.now() - startedAt < most, `${world.clock.now() - startedAt} ms`);
      world.extraDelay = () => 0;
      world.restore(world.hosts[0]!);
      await wait(60_000);
      assert.ok(allArrived(await succeeds(user.update('a', { instances: ['engine-1'] }))));
    });
  });
}
