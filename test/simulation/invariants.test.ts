/** Every invariant of the simulation detects its violation when something is broken on purpose. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { checkpointAt } from '../../simulation/checkpoint.ts';
import { asSegment, type SimulatedSegment } from '../../simulation/contents.ts';
import type { SimulatedFabric } from '../../simulation/fabric.ts';
import { segmentDirectory } from '../../simulation/host.ts';
import { checkOutcomes, checkUpdatedVersion } from '../../simulation/invariants.ts';
import { bucketBytes, expectViolation, type Fixture } from './harness.ts';

/** Eight slices of 16 MiB, on the first of two hosts. */
const model = Array.from({ length: 8 }, (_, layer) => ({
  name: `layers.${layer}.weight`,
  dtype: 'BF16',
  shape: [8 * 2 ** 20],
}));
const [modelA, modelB] = ['/models/a', '/models/b'].map((path) => checkpointAt(path, model, false));
const hosts = {
  worldSize: 2,
  ranksPerHost: 1,
  instances: [[0], [1]],
  firstInstances: 1,
  reach: 'host',
  // A join takes about a second.
  linkRate: 1e5,
  deviceSlowness: 1,
  checkpoints: [modelA!, modelB!],
} as const;

/** Starts a join of the second instance; resolves when it reads. */
async function startJoin({ cluster, user, succeeds, until, world }: Fixture, verify = true) {
  await succeeds(user.addInstance(cluster.instance(1)));
  const done = user.update('a', { instances: ['engine-1'], verify: { arrived: verify, installed: false } });
  await until('the joiner reads', () => world.fabrics.links.flows > 0);
  return { done };
}

function fabricOf({ world }: Fixture, rank: number): SimulatedFabric {
  return world.fabrics.all.find(({ name }) => name.startsWith(`rank-${rank}~`))!;
}

/** A host's segments as seen by a process that ignores who uses them. */
function segmentsOf({ world }: Fixture, host: number, rank: number) {
  return world.hosts[host]!.open(world.clock, (path) => fabricOf({ world } as Fixture, rank).unmapped(path));
}

/** The first segment of a host whose path contains `part`. */
function segmentOn(fixture: Fixture, host: number, part: string) {
  const path = fixture.world.hosts[host]!.segments.find((candidate) => candidate.includes(part))!;
  const segment = asSegment(segmentsOf(fixture, host, host).attach(path));
  return { path, segment };
}

/** Changes some bytes in the middle of a segment. */
function overwrite({ contents, bytes }: SimulatedSegment): void {
  const from = Math.floor(bytes / 2);
  contents.write(from, 8, [{ start: 0, end: 8, source: '/models/b', from }]);
}

// ── installed bytes ────────────────────────────────────────────────────────────────────────────────────────────

test('bytes corrupted between arrival and installation are detected', async () => {
  await expectViolation(/engine-1 is reported with a@\w+, but acknowledged null/, hosts, async (fixture) => {
    const { done } = await startJoin(fixture, false);
    const { segment } = segmentOn(fixture, 1, 'mirror-');
    const hasArrived = () => segment.contents.read(0, segment.bytes)[0]?.end === segment.bytes;
    await fixture.until('the slice has arrived', hasArrived);
    overwrite(segment);
    await fixture.succeeds(done);
  });
});

test('a source that changes while it is read is detected', async () => {
  await expectViolation(/checkpoint-1-0 changed while it was read/, hosts, async (fixture) => {
    const { done } = await startJoin(fixture);
    const { segment } = segmentOn(fixture, 0, 'checkpoint-1-0');
    segment.contents.write(0, segment.bytes, [
      { start: 0, end: segment.bytes, source: '/models/b', from: 0 },
    ]);
    await fixture.fails(done, 'WEIGHTCAST_VERIFICATION', /arrived with other bytes/);
  });
});

test('an update that installs another version than requested is detected', async () => {
  await expectViolation(/an update to a@\w+ installed a@\w+/, hosts, async ({ world }) => {
    checkUpdatedVersion(world, 'a', '/models/a', { checkpoint: 'a', digest: modelA!.digest });
    assert.deepEqual(world.trace.violations, []);
    checkUpdatedVersion(world, 'a', '/models/a', { checkpoint: 'a', digest: modelB!.digest });
  });
});

// ── shared memory ──────────────────────────────────────────────────────────────────────────────────────────

test('unmapping a segment that peers may read is detected', async () => {
  await expectViolation(
    /rank-0~1 unmapped .*checkpoint-1-0 while its peers could/,
    hosts,
    async (fixture) => {
      const { done } = await startJoin(fixture);
      const { path, segment } = segmentOn(fixture, 0, 'checkpoint-1-0');
      segmentsOf(fixture, 0, 0).forget([path]);
      await fixture.succeeds(done);
      // Restored, so that no other invariant is violated.
      await segmentsOf(fixture, 0, 0).create([segment]);
    },
  );
});

test('unmapping the destination of a read is detected', async () => {
  await expectViolation(/rank-1~2 unmapped .* while it was reading into it/, hosts, async (fixture) => {
    const { done } = await startJoin(fixture);
    const { path } = segmentOn(fixture, 1, 'mirror-');
    fabricOf(fixture, 1).unmapped(path);
    await fixture.succeeds(done);
  });
});

test('reading a segment after its lease has ended is detected', async () => {
  await expectViolation(
    /rank-1~2 read .*checkpoint-1-0 after rank-0~1 took it back/,
    hosts,
    async (fixture) => {
      const { cluster, world, user, succeeds } = fixture;
      const { done } = await startJoin(fixture);
      const { epoch } = await succeeds(user.status());
      const rank = cluster.ranks.get(0)!.process!.system;
      const lease = { type: 'return-lease', epoch };
      const message = { from: world.supervisorNode, to: rank.node, bytes: 0 };
      const ref = rank.wellKnown(rank.node, 'rank');
      rank.tell(ref, lease as never);
      world.leases.arrived({ ...message, envelope: { kind: 'tell', body: lease } as never });
      await succeeds(done);
    },
  );
});

// ── engines ──────────────────────────────────────────────────────────────────────────────────────────────────────

const call = { timeoutMilliseconds: 1_000, signal: new AbortController().signal };

test('touching an engine that no update includes is detected', async () => {
  const pausing = { ...hosts, pauses: true };
  await expectViolation(
    /engine-0 got a pause request, but no pending update includes it/,
    pausing,
    async (fixture) => {
      const { cluster, world, succeeds } = fixture;
      const { done } = await startJoin(fixture);
      const bridge = cluster.engineClient('engine-0', world.clock);
      void bridge.pause('keep', call).then(() => bridge.resume(call));
      await succeeds(done);
    },
  );
});

test('an engine that resumes during an update is detected', async () => {
  await expectViolation(/changed while it was serving/, { pauses: true }, async (fixture) => {
    const { cluster, world, user, succeeds, until } = fixture;
    const update = user.update('a', { bucketBytes });
    const [engine] = world.engines;
    await until('an engine worker receives', () => engine!.workers.some(({ isBusy }) => isBusy));
    void cluster.engineClient('engine-0', world.clock).resume(call);
    await succeeds(update);
  });
});

test('an engine that resumes although it is broken is detected', async () => {
  await expectViolation(/resumes although it is broken/, { pauses: true }, async (fixture) => {
    const { cluster, world, user, succeeds, fails, until, wait } = fixture;
    const update = user.update('a', { bucketBytes });
    await until('a bucket is installed', () => world.engines[0]!.isBroken);
    await succeeds(user.cancel('no longer wanted'));
    await fails(update, 'WEIGHTCAST_ABORTED', /no longer wanted/);
    void cluster.engineClient('engine-0', world.clock).resume(call);
    await wait(10);
  });
});

test('an engine that an update has paused and left paused is detected', async () => {
  await expectViolation(/engine-0 was left paused by an update/, { pauses: true }, async (fixture) => {
    const { world, user, succeeds, until } = fixture;
    const update = user.update('a');
    const [engine] = world.engines;
    await until('the engine is paused', () => engine!.isPaused);
    await until('it is resumed', () => !engine!.isPaused);
    engine!.setPaused(true);
    await succeeds(update);
  });
});

test('an update that changes the weights of an engine that sleeps is detected', async () => {
  await expectViolation(
    /engine-0 changed while it was asleep/,
    {},
    async ({ world, user, succeeds, until }) => {
      const update = user.update('a', { bucketBytes });
      const [engine] = world.engines;
      await until('an engine worker receives', () => engine!.workers.some(({ isBusy }) => isBusy));
      engine!.isSleeping = true;
      await succeeds(update);
      engine!.isSleeping = false;
    },
  );
});

test('a report is compared with what the engines hold', async () => {
  const claims = [
    [/engine-0 is reported as unchanged, but was touched/, { outcome: 'unchanged' }],
    [/engine-0 is reported as broken without an error/, { outcome: 'broken' }],
    [/2 ranks are reported as updated, but 0 were/, { outcome: 'broken' }],
  ] as const;
  for (const [violation, claim] of claims) {
    await expectViolation(violation, {}, async ({ world, user, succeeds }) => {
      const report = await succeeds(user.update('a', { instances: ['engine-0'] }));
      checkOutcomes(world, { ...report, instances: [{ ...report.instances[0]!, ...claim }] }, 0);
    });
  }
});

// ── leaks ──────────────────────────────────────────────────────────────────────────────────────────────

const leaks: readonly (readonly [violation: RegExp, leak: (fixture: Fixture) => unknown])[] = [
  [/bytes allocated on SIM-0: 1,/, ({ world }) => world.devices[0]!.open(world.clock).allocate(1)],
  [/mirror-99-0 is left on host-0/, (fixture) => leaveSegment(fixture, 'mirror-99-0')],
  [/checkpoint-99-0 is left on host-0/, (fixture) => leaveSegment(fixture, 'checkpoint-99-0')],
  [/reads in flight: 1/, ({ world }) => world.fabrics.links.send(['slow'], 1e18, () => {})],
  [/peers connected to rank-1~2: 1/, (fixture) => connect(fixture)],
  [/rank-0~1 still exposes .*other, which is not registered any more/, (fixture) => expose(fixture)],
  [
    /members of communicators: 3/,
    ({ world }) => {
      const ranks = [0, 1, 2];
      const joined = { communicator: 99, ranks, clock: world.clock, slowness: () => 1 };
      for (const rank of ranks) world.communicators.join({ ...joined, rank });
    },
  ],
  [
    /worker links bound: 1/,
    ({ world: { clock, links } }) =>
      links.bind({
        deviceUuid: 'SIM-0',
        epoch: 99,
        version: '',
        liveLayouts: null,
        parts: false,
        kept: null,
        silenceSeconds: 1,
        timeoutMilliseconds: 1,
        clock,
      }),
  ],
  [/supervisor~1 holds 1 timers/, ({ cluster }) => cluster.supervisor.clock.after(1e9, () => {})],
  [/rank-0~1 holds 1 timers/, ({ cluster }) => cluster.ranks.get(0)!.process!.clock.after(1e9, () => {})],
];

function leaveSegment(fixture: Fixture, name: string) {
  return segmentsOf(fixture, 0, 0).create([{ path: `${segmentDirectory}/${name}`, bytes: 1 }]);
}

function connect(fixture: Fixture) {
  const { address } = fabricOf(fixture, 0);
  return fabricOf(fixture, 1).connect(address, { name: 'rank 0', timeoutMilliseconds: 1_000 });
}

async function expose(fixture: Fixture): Promise<void> {
  const path = '/dev/shm/other';
  await segmentsOf(fixture, 0, 0).create([{ path, bytes: 1 }]);
  void fabricOf(fixture, 0).expose(segmentsOf(fixture, 0, 0).attach(path));
}

test('every kind of leak is detected when the cluster is idle', async () => {
  for (const [violation, leak] of leaks) {
    await expectViolation(violation, { ...hosts, linkRate: 50e6 }, async (fixture) => {
      const { done } = await startJoin(fixture);
      await fixture.succeeds(done);
      void leak(fixture);
    });
  }
});

test('a request that is not answered within its deadline is detected', async () => {
  await expectViolation(/update was not answered within/, {}, async ({ world, user, fails }) => {
    world.extraDelay = ({ from, envelope }) => {
      return from === world.supervisorNode && envelope.kind === 'reply' ? 1e9 : 0;
    };
    await fails(user.update('a'), 'WEIGHTCAST_DEADLINE', /./);
    world.extraDelay = () => 0;
  });
});
