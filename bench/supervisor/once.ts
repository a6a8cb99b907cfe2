/** One measurement for bench/supervisor.ts: `once.ts <ranks> <tensors, or 0>`, the process of the supervisor. */
import { fork } from 'node:child_process';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { setImmediate } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { type ActorRef, ActorSystem } from '../../src/actors/kernel/index.ts';
import { ask, type Question } from '../../src/actors/protocol/ask.ts';
import { type SupervisorExchange, toSupervisor } from '../../src/actors/protocol/supervisor.ts';
import { type SupervisorInbox, supervisorSpawnOptions } from '../../src/actors/supervisor/inbox.ts';
import { SupervisorActor } from '../../src/actors/supervisor/supervisor.ts';
import type { EngineClient } from '../../src/engines/engine-client.ts';
import { onlyProtocol } from '../../src/engines/workers-said.ts';
import { systemClock } from '../../src/native-bridge/clock.ts';
import { createClusterKeys, spokeKeys } from '../../src/transport/curve.ts';
import { HubTransport } from '../../src/transport/hub.ts';
import { processorTime } from '../processor-time.ts';
import { limits, log } from './circumstances.ts';
import type { HostsOrder } from './hosts.ts';
import { indexOf, largeModel } from './large-checkpoint.ts';
import { WatchedTransport } from './watch.ts';

const ranksPerHost = 8;
const instances = 16;
const deadlineMilliseconds = 240_000;

export interface SupervisorMeasurement {
  readonly tensors: number;
  /** Bytes of the manifest that is sent. */
  readonly manifest: number;
  /** Milliseconds of processor time of this process, from request to answer. */
  readonly register: number;
  readonly cold: number;
  readonly unchanged: number;
  /** From the first answer to `prepare`, of all ranks, to the first byte of the plan; twice if engines were slow meanwhile. */
  readonly plan: number;
  /** From the last answer to `prepare` to the first `open`, with the cached plan. */
  readonly planUnchanged: number;
  /** From there to the last answer to `open`. */
  readonly distribute: number;
  /** Milliseconds in which it answered nobody, at most, in the cold update. */
  readonly silent: number;
  /** Bytes of all messages to a host in the cold update, on average. */
  readonly hostBytes: number;
  /** Bytes, of this process. */
  readonly peakResident: number;
}

const idleClient: EngineClient = {
  endpoint: 'http://engine',
  ready: async () => ({ wasDown: false }),
  state: async () => ({ isPaused: null, isSleeping: null, version: null }),
  workers: async () => onlyProtocol(2),
  worldSize: async () => null,
  survey: async () => {},
  pause: async () => {},
  resume: async () => {},
  update: async () => {},
  resetCaches: async () => {},
  label: async () => null,
  answers: async () => [],
  close: async () => {},
};

function optionsOf(ranks: number) {
  const each = ranks / instances;
  return Array.from({ length: instances }, (_, number) => ({
    name: `engine-${number}`,
    endpoint: 'http://engine',
    workers: Array.from({ length: each }, (_, index) => ({ rank: number * each + index })),
  }));
}

async function measure(ranks: number, count: number): Promise<SupervisorMeasurement> {
  const keys = createClusterKeys();
  const hub = await HubTransport.bind({ node: 'hub~1', keys: keys, clock: systemClock, log, limits });
  const transport = new WatchedTransport(hub, ranks);
  const system = ActorSystem.create({ clock: systemClock, random: { next: () => 0.5 }, log, transport });
  const ports = {
    launchRank: () => ({ exited: new Promise<string>(() => {}), isSurvivor: false, stop: async () => {} }),
    engineClient: () => idleClient,
    noteInstance: () => {},
    segmentName: (set: number) => `checkpoint-${set}-`,
    breathe: () => setImmediate(),
    memory: { incarnation: 0, recall: () => new Map(), write() {}, async writeLarge() {}, remove() {} },
    openCheckpoint: async () => indexOf(largeModel(count === 0 ? null : count)),
  };
  const supervisor = system.spawn<SupervisorInbox>(
    'supervisor',
    () => new SupervisorActor({ instances: optionsOf(ranks), spareCheckpoints: 0 }, ports),
    supervisorSpawnOptions,
  );
  const request = <E extends SupervisorExchange>(exchange: E, fields: Parameters<typeof ask<E>>[3]) =>
    ask(system, supervisor as ActorRef<Question<E>>, exchange, fields, { deadlineMilliseconds });
  const hosts = fork(fileURLToPath(new URL('hosts.ts', import.meta.url)));
  const { endpoint } = hub;
  hosts.send({ hub: hub.node, endpoint, keys: spokeKeys(keys), ranks, ranksPerHost } satisfies HostsOrder);
  await request(toSupervisor.awaitReady, {});
  const timed = async (work: () => Promise<unknown>) => {
    transport.begin();
    const startedAt = processorTime();
    await work();
    return processorTime() - startedAt;
  };
  const source = { kind: 'path', path: '/models/large' } as const;
  const register = await timed(() => request(toSupervisor.register, { checkpoint: 'large', source }));
  const options = {
    memoryFraction: 0.9,
    verify: { arrived: true, installed: false },
    baseline: null,
    acceptUnproven: false,
    atomic: true,
    heal: false,
    keepCopy: true,
    parts: true,
    timeoutMilliseconds: deadlineMilliseconds,
  };
  const update = () => request(toSupervisor.update, { checkpoint: 'large', options });
  const sentBefore = hub.counters.sentBytes;
  const delays = monitorEventLoopDelay({ resolution: 1 });
  delays.enable();
  const cold = await timed(update);
  delays.disable();
  const hostBytes = (hub.counters.sentBytes - sentBefore) / (ranks / ranksPerHost);
  const plan = transport.fromFirst('prepare answered', 'write-document');
  const distribute = transport.overKinds('write-document', 'open answered');
  const unchanged = await timed(update);
  const planUnchanged = transport.betweenKinds('prepare answered', 'open');
  const { tensors } = await request(toSupervisor.status, {}).then(({ checkpoints }) => checkpoints[0]!);
  return {
    tensors,
    manifest: transport.manifest,
    register,
    cold,
    unchanged,
    plan,
    planUnchanged,
    distribute,
    silent: delays.max / 1e6,
    hostBytes,
    peakResident: process.resourceUsage().maxRSS * 1024,
  };
}

const [ranks, tensors] = process.argv.slice(2).map(Number);
process.send!(await measure(ranks!, tensors!));
process.exit(0);
