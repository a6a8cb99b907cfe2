/** Each invariant of the simulation finds what it is there for, when something is broken on purpose. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { checkpointAt } from '../../simulation/checkpoint.ts';
import type { SimulatedFabric } from '../../simulation/fabric.ts';
import { type SimulatedSegment, segmentDirectory } from '../../simulation/host.ts';
import { checkAsked } from '../../simulation/invariants.ts';
import { bucketBytes, onBrokenStage, type Stage } from './harness.ts';

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

/** The second instance is there and receives. */
async function joining({ cluster, user, succeeds, until, world }: Stage, verify = true) {
  await succeeds(user.addInstance(cluster.instance(1)));
  const done = user.update('a', { instances: ['engine-1'], verify });
  await until('something is read', () => world.fabrics.links.flows > 0);
  return { done };
}

function fabricOf({ world }: Stage, rank: number): SimulatedFabric {
  return world.fabrics.all.find(({ identity }) => identity.name.startsWith(`rank-${rank}~`))!;
}

/** A host's segments as a process has them that does not care who uses them. */
function carelessly({ world }: Stage, host: number, rank: number) {
  return world.hosts[host]!.open(world.clock, (path) => fabricOf({ world } as Stage, rank).unmapped(path));
}

/** The first segment of a host whose path has that in it. */
function segmentOn(stage: Stage, host: number, part: string) {
  const path = stage.world.hosts[host]!.segments.find((candidate) => candidate.includes(part))!;
  const segment = carelessly(stage, host, host).attach(path) as unknown as SimulatedSegment;
  return { path, segment };
}

/** Other bytes, in the middle of a segment. */
function overwrite({ contents, bytes }: SimulatedSegment): void {
  const from = Math.floor(bytes / 2);
  contents.write(from, 8, [{ start: 0, end: 8, source: '/models/b', from }]);
}

// ── what is installed ────────────────────────────────────────────────────────────────────────────────────────────

test('bytes that are spoiled between their arrival and their installation', async () => {
  await onBrokenStage(/engine-1 is reported with a@\w+, but acknowledged null/, hosts, async (stage) => {
    const { done } = await joining(stage, false);
    const { segment } = segmentOn(stage, 1, 'mirror-');
    const isWhole = () => segment.contents.read(0, segment.bytes)[0]?.end === segment.bytes;
    await stage.until('it has arrived', isWhole);
    overwrite(segment);
    await stage.succeeds(done);
  });
});

test('a source that changes while it is read', async () => {
  await onBrokenStage(/checkpoint-1-0 changed while it was read/, hosts, async (stage) => {
    const { done } = await joining(stage);
    const { segment } = segmentOn(stage, 0, 'checkpoint-1-0');
    segment.contents.write(0, segment.bytes, [
      { start: 0, end: segment.bytes, source: '/models/b', from: 0 },
    ]);
    await stage.fails(done, 'WEIGHTCAST_VERIFICATION', /arrived with other bytes/);
  });
});

test('an update that brings another version than the one that was asked for', async () => {
  await onBrokenStage(/an update to a@\w+ brought a@\w+/, hosts, async ({ world }) => {
    checkAsked(world, 'a', '/models/a', { checkpoint: 'a', digest: modelA!.digest });
    assert.deepEqual(world.trace.violations, []);
    checkAsked(world, 'a', '/models/a', { checkpoint: 'a', digest: modelB!.digest });
  });
});

// ── memory that is read ──────────────────────────────────────────────────────────────────────────────────────────

test('a segment that is given up while others may read it', async () => {
  await onBrokenStage(/rank-0~1 unmapped .*checkpoint-1-0 while its peers could/, hosts, async (stage) => {
    const { done } = await joining(stage);
    const { path, segment } = segmentOn(stage, 0, 'checkpoint-1-0');
    carelessly(stage, 0, 0).forget([path]);
    await stage.succeeds(done);
    // Back, so that nothing else is found.
    await carelessly(stage, 0, 0).create([segment]);
  });
});

test('a segment that is given up while it is read into', async () => {
  await onBrokenStage(/rank-1~2 unmapped .* while it was reading into it/, hosts, async (stage) => {
    const { done } = await joining(stage);
    const { path } = segmentOn(stage, 1, 'mirror-');
    fabricOf(stage, 1).unmapped(path);
    await stage.succeeds(done);
  });
});

test('a segment that is read after its lease has ended', async () => {
  await onBrokenStage(/rank-1~2 read .*checkpoint-1-0 after rank-0~1 took it back/, hosts, async (stage) => {
    const { cluster, world, user, succeeds } = stage;
    const { done } = await joining(stage);
    const { epoch } = await succeeds(user.status());
    const rank = cluster.ranks.get(0)!.process!.system;
    const lease = { type: 'return-lease', epoch };
    const passage = { from: world.supervisorNode, to: rank.node, bytes: 0 };
    const ref = rank.wellKnown(rank.node, 'rank');
    rank.tell(ref, lease as never);
    world.lent.arrived({ ...passage, envelope: { kind: 'tell', body: lease } as never });
    await succeeds(done);
  });
});

// ── engines ──────────────────────────────────────────────────────────────────────────────────────────────────────

const call = { timeoutMilliseconds: 1_000, signal: new AbortController().signal };

test('an engine that is touched by an update of others', async () => {
  const pausing = { ...hosts, pauses: true };
  await onBrokenStage(/engine-0 is asked to pause by an update that does not/, pausing, async (stage) => {
    const { cluster, world, succeeds } = stage;
    const { done } = await joining(stage);
    const bridge = cluster.engineClient('engine-0', world.clock);
    void bridge.pause('keep', call).then(() => bridge.resume(call));
    await succeeds(done);
  });
});

test('an engine that goes on in the middle of an update', async () => {
  await onBrokenStage(/changed while it was serving/, { pauses: true }, async (stage) => {
    const { cluster, world, user, succeeds, until } = stage;
    const update = user.update('a', { bucketBytes });
    const [engine] = world.engines;
    await until('an engine is touched', () => engine!.workers.some(({ isBusy }) => isBusy));
    void cluster.engineClient('engine-0', world.clock).resume(call);
    await succeeds(update);
  });
});

test('an engine that goes on with parts of different versions', async () => {
  await onBrokenStage(/goes on with parts of different versions/, { pauses: true }, async (stage) => {
    const { cluster, world, user, succeeds, fails, until, wait } = stage;
    const update = user.update('a', { bucketBytes });
    await until('something is installed', () => world.engines[0]!.isMixed);
    await succeeds(user.cancel('no longer wanted'));
    await fails(update, 'WEIGHTCAST_ABORTED', /no longer wanted/);
    void cluster.engineClient('engine-0', world.clock).resume(call);
    await wait(10);
  });
});

// ── nothing is left ──────────────────────────────────────────────────────────────────────────────────────────────

const leaks: readonly (readonly [what: RegExp, leak: (stage: Stage) => unknown])[] = [
  [/bytes allocated on SIM-0: 1,/, ({ world }) => world.devices[0]!.open(world.clock).allocate(1)],
  [/mirror-99-0 is left on host-0/, (stage) => leaveSegment(stage, 'mirror-99-0')],
  [/checkpoint-99-0 is left on host-0/, (stage) => leaveSegment(stage, 'checkpoint-99-0')],
  [/reads under way: 1/, ({ world }) => world.fabrics.links.send(['slow'], 1e18, () => {})],
  [/peers that rank-1~2 is connected to: 1/, (stage) => connect(stage)],
  [/rank-0~1 lets peers read .*other, which is no more/, (stage) => expose(stage)],
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
      links.bind({ deviceUuid: 'SIM-0', epoch: 99, version: '', timeoutMilliseconds: 1, clock }),
  ],
  [/supervisor~1 holds 1 timers/, ({ cluster }) => cluster.supervisor.clock.after(1e9, () => {})],
  [/rank-0~1 holds 1 timers/, ({ cluster }) => cluster.ranks.get(0)!.process!.clock.after(1e9, () => {})],
];

function leaveSegment(stage: Stage, name: string) {
  return carelessly(stage, 0, 0).create([{ path: `${segmentDirectory}/${name}`, bytes: 1 }]);
}

function connect(stage: Stage) {
  const { address } = fabricOf(stage, 0);
  return fabricOf(stage, 1).connect(address, { name: 'rank 0', timeoutMilliseconds: 1_000 });
}

async function expose(stage: Stage): Promise<void> {
  const path = '/dev/shm/other';
  await carelessly(stage, 0, 0).create([{ path, bytes: 1 }]);
  void fabricOf(stage, 0).expose(carelessly(stage, 0, 0).attach(path));
}

test('whatever is left when nothing runs', async () => {
  for (const [what, leak] of leaks) {
    await onBrokenStage(what, { ...hosts, linkRate: 50e6 }, async (stage) => {
      const { done } = await joining(stage);
      await stage.succeeds(done);
      void leak(stage);
    });
  }
});

test('a request that is not answered in time', async () => {
  await onBrokenStage(/update was not answered within/, {}, async ({ world, user, fails }) => {
    world.holdUp = ({ from, envelope }) => {
      return from === world.supervisorNode && envelope.kind === 'reply' ? 1e9 : 0;
    };
    await fails(user.update('a'), 'WEIGHTCAST_DEADLINE', /./);
    world.holdUp = () => 0;
  });
});
