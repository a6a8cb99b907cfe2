import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { type ActorRef, ActorSystem } from '../../../src/actors/kernel/index.ts';
import { ask, type Question } from '../../../src/actors/protocol/ask.ts';
import type { Instance } from '../../../src/actors/protocol/instance.ts';
import type { ObserverMessage } from '../../../src/actors/protocol/observer.ts';
import type { RankMessage } from '../../../src/actors/protocol/rank.ts';
import { type SupervisorExchange, toSupervisor } from '../../../src/actors/protocol/supervisor.ts';
import { type SupervisorInbox, supervisorSpawnOptions } from '../../../src/actors/supervisor/inbox.ts';
import type { LaunchedRank, SupervisorPorts } from '../../../src/actors/supervisor/ports.ts';
import { SupervisorActor, type SupervisorOptions } from '../../../src/actors/supervisor/supervisor.ts';
import type { EngineClient } from '../../../src/engines/engine-client.ts';
import { CheckpointError, UsageError } from '../../../src/errors.ts';
import { systemClock } from '../../../src/native-bridge/clock.ts';
import { patience } from '../../patience.ts';
import { silentLog } from '../kernel/harness.ts';

const deadlineMilliseconds = patience;
const instance = (name: string, rank: number): Instance => {
  return { name, endpoint: `http://${name}`, workers: [{ rank }] };
};

/** A supervisor alone with ranks that do nothing. */
function startSupervisor(
  test: TestContext,
  ports: Partial<SupervisorPorts> = {},
  options: Partial<SupervisorOptions> = {},
) {
  const system = ActorSystem.create({ clock: systemClock, random: { next: Math.random }, log: silentLog });
  test.after(() => system.stop(10_000));
  const supervisor = system.spawn<SupervisorInbox>(
    'supervisor',
    () =>
      new SupervisorActor({ instances: [], spareCheckpoints: 0, ...options }, { ...idlePorts(), ...ports }),
    supervisorSpawnOptions,
  );
  const question = <E extends SupervisorExchange>(exchange: E, fields: Parameters<typeof ask<E>>[3]) =>
    ask(system, supervisor as ActorRef<Question<E>>, exchange, fields, { deadlineMilliseconds });
  const ready = (rank: number) => {
    const ref = system.spawn<RankMessage>(`rank-${rank}-${performance.now()}`, () => ({ receive() {} }));
    const place = {
      deviceUuid: `GPU-${rank}`,
      host: 'h',
      directory: '/d',
      directoryId: '1',
      nics: [],
      pid: 1,
      epochs: { first: 0, last: 0, loaded: 0 },
    };
    const scope = { collectiveScope: 'host' } as const;
    system.tell(supervisor, { type: 'rank-ready', rank, ref, ...place, ...scope });
  };
  return { system, supervisor, question, ready };
}

function idlePorts(): SupervisorPorts {
  return {
    launchRank: () => launched(),
    engineClient: ({ endpoint }) => idleClient(endpoint),
    noteInstance: () => {},
    segmentName: (set) => `checkpoint-${set}-`,
    memory: { incarnation: 0, recall: () => new Map(), write() {}, async writeLarge() {}, remove() {} },
    breathe: async () => {},
    openCheckpoint: async () => {
      throw new CheckpointError('no such checkpoint');
    },
  };
}

/** Runs until it is stopped. */
function launched(): LaunchedRank {
  let exit!: (reason: string) => void;
  const exited = new Promise<string>((resolve) => {
    exit = resolve;
  });
  return { exited, isSurvivor: false, stop: async () => exit('exit code 0') };
}

function idleClient(endpoint: string, close: () => Promise<void> = async () => {}): EngineClient {
  const idle = async () => {};
  const ready = async () => ({ wasDown: false });
  const state = async () => ({ isPaused: null, isSleeping: null, version: null });
  const label = async () => null;
  const answers = async () => [];
  const unsaid = { workers: async () => null, worldSize: async () => null };
  const calls = { pause: idle, resume: idle, update: idle, resetCaches: idle, survey: idle };
  return { endpoint, ready, state, ...calls, ...unsaid, label, answers, close };
}

test('a job that ends while the mailbox is full is answered, and the next one can start', async (t) => {
  const progress = { activity: 'load', rank: 0, doneBytes: 0, totalBytes: 1 } as const;
  const { system, supervisor, question, ready } = startSupervisor(t, {
    openCheckpoint: async () => {
      for (let count = 0; count < 20_000; count += 1) system.tell(supervisor, { type: 'progress', progress });
      throw new CheckpointError('broken');
    },
  });
  const added = question(toSupervisor.addInstance, { instance: instance('a', 0) });
  ready(0);
  await added;
  const source = { kind: 'path', path: '/models/a' } as const;
  for (const checkpoint of ['one', 'two']) {
    const registered = question(toSupervisor.register, { checkpoint, source });
    await assert.rejects(registered, { name: 'CheckpointError', message: 'broken' });
    // The mailbox was full, and has room again after this.
    await question(toSupervisor.status, {}).catch(() => {});
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  assert.ok(system.counters.refusedByMailbox > 0, 'the mailbox was full');
});

test('an instance with an invalid endpoint is refused, and nothing of it is left', async (t) => {
  const { question, ready } = startSupervisor(t, {
    engineClient: ({ name, endpoint }) => {
      if (name === 'bad') throw new UsageError('invalid endpoint');
      return idleClient(endpoint);
    },
  });
  const refused = question(toSupervisor.addInstance, { instance: instance('bad', 0) });
  await assert.rejects(refused, { name: 'UsageError', message: 'invalid endpoint' });
  assert.deepEqual((await question(toSupervisor.status, {})).instances, []);
  const added = question(toSupervisor.addInstance, { instance: instance('node-2:8000 / ü', 0) });
  ready(0);
  assert.equal((await added).instances[0]!.name, 'node-2:8000 / ü');
});

test('an instance can join again under its name while its former bridge is still ending', async (t) => {
  let closed = false;
  const { question, ready } = startSupervisor(t, {
    engineClient: ({ endpoint }) =>
      idleClient(endpoint, async () => {
        await new Promise((resolve) => setTimeout(resolve, 300));
        closed = true;
      }),
  });
  for (let round = 0; round < 2; round += 1) {
    const added = question(toSupervisor.addInstance, { instance: instance('a', 0) });
    ready(0);
    await added;
    assert.equal(closed, false);
    if (round === 0) await question(toSupervisor.removeInstance, { instance: 'a' });
  }
});

test('a rank that exits while the supervisor is ending is not restarted', async (t) => {
  const launches: LaunchedRank[] = [];
  const { system, question, ready } = startSupervisor(t, {
    launchRank: () => {
      launches.push(launched());
      return launches.at(-1)!;
    },
    // The supervisor ends its bridges before it stops its rank processes.
    engineClient: ({ endpoint }) =>
      idleClient(endpoint, () => new Promise((resolve) => setTimeout(resolve, 1_000))),
  });
  const added = question(toSupervisor.addInstance, { instance: instance('a', 0) });
  ready(0);
  await added;
  const stopped = system.stop(10_000);
  await launches[0]!.stop();
  await stopped;
  assert.equal(launches.length, 1);
});

test('ranks that are removed are told whether their host has others, also such as wait to be started again', async (t) => {
  const stops = new Map<number, unknown>();
  const exits = new Map<number, LaunchedRank>();
  const { question, ready } = startSupervisor(t, {
    launchRank: ({ rank }) => {
      const process = launched();
      exits.set(rank, process);
      const stop = (grace?: number, removal?: unknown) => {
        stops.set(rank, removal);
        return process.stop(grace);
      };
      return { ...process, stop };
    },
  });
  const names = ['x', 'y', 'elsewhere'];
  for (const [rank, name] of names.entries()) {
    const host = name === 'elsewhere' ? 'c' : 'b';
    const added = question(toSupervisor.addInstance, {
      instance: { ...instance(name, rank), workers: [{ rank, host }] },
    });
    ready(rank);
    await added;
  }
  await exits.get(1)!.stop();
  for (const name of names) await question(toSupervisor.removeInstance, { instance: name });
  assert.deepEqual(
    names.map((_, rank) => stops.get(rank)),
    [{ isHostFree: false }, { isHostFree: true }, { isHostFree: true }],
  );
});

test('an instance that is removed while it joins fails the call that added it', async (t) => {
  const { question } = startSupervisor(t);
  const added = question(toSupervisor.addInstance, { instance: instance('a', 0) });
  const removed = question(toSupervisor.removeInstance, { instance: 'a' });
  await assert.rejects(added, { name: 'UsageError', message: 'instance a was removed before it was ready' });
  await removed;
});

test('a message that the supervisor fails on fails alone', async (t) => {
  const { system, supervisor, question, ready } = startSupervisor(t);
  const added = question(toSupervisor.addInstance, { instance: instance('a', 0) });
  ready(0);
  await added;
  const observer = system.spawn<ObserverMessage>('observer', () => ({ receive() {} }));
  await question(toSupervisor.subscribe, { observer });
  system.tell(supervisor, { type: 'progress' } as never);
  const { ranks } = await question(toSupervisor.status, {});
  assert.deepEqual(
    ranks.map(({ state }) => state),
    ['ready'],
  );
});

test('an instance whose rank does not start in time is refused with the rank and what may be the cause, and is gone', async (t) => {
  const { question } = startSupervisor(
    t,
    { launchRank: () => ({ ...launched(), hint: 'host b may not reach it' }) },
    { startTimeoutMilliseconds: 50 },
  );
  await assert.rejects(question(toSupervisor.addInstance, { instance: instance('a', 3) }), {
    name: 'DeadlineError',
    message:
      'rank 3 was not ready 0.05 s after its start (startTimeoutMilliseconds); it is killed and started again; host b may not reach it',
  });
  const { instances, ranks } = await question(toSupervisor.status, {});
  assert.deepEqual([instances, ranks], [[], []]);
});

test('memory for more tensors than can be registered is not reserved', async (t) => {
  const { question } = startSupervisor(t);
  const writer = { node: 'a~1', name: 'writer', generation: 1 };
  const bytes = new Float64Array(2_000_001);
  const reservation = question(toSupervisor.reserve, { checkpoint: 'policy', host: 'h', bytes, writer });
  await assert.rejects(reservation, {
    name: 'CheckpointError',
    message: 'checkpoint "policy" has 2000001 tensors; at most 2000000 can be registered',
  });
});
