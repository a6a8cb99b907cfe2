/** One measurement for bench/supervisor.ts, in its own process: `once.ts <ranks> <tensors, or 0>`. */

import { type InFlight, SimulatedNetwork } from '../../simulation/network.ts';
import { type ActorRef, ActorSystem, type Envelope } from '../../src/actors/kernel/index.ts';
import { ask, type Question } from '../../src/actors/protocol/ask.ts';
import type { RankMessage } from '../../src/actors/protocol/rank.ts';
import {
  type SupervisorExchange,
  type SupervisorMessage,
  toSupervisor,
} from '../../src/actors/protocol/supervisor.ts';
import { type SupervisorInbox, supervisorSpawnOptions } from '../../src/actors/supervisor/inbox.ts';
import type { SupervisorPorts } from '../../src/actors/supervisor/ports.ts';
import { SupervisorActor } from '../../src/actors/supervisor/supervisor.ts';
import type { HostDocument } from '../../src/checkpoint/host-documents.ts';
import type { EngineClient } from '../../src/engines/engine-client.ts';
import { systemClock } from '../../src/native-bridge/clock.ts';
import { FakeRank, fakeRankOptions } from './fake-rank.ts';
import { indexOf, largeModel } from './large-checkpoint.ts';

const ranksPerHost = 8;
const instances = 16;
const deadlineMilliseconds = 240_000;

export interface SupervisorMeasurement {
  readonly tensors: number;
  /** Bytes of the manifest that is sent. */
  readonly manifest: number;
  /** Milliseconds, from request to answer. */
  readonly register: number;
  readonly cold: number;
  readonly unchanged: number;
  /** From the last answer to `prepare` to the first byte of the plan. */
  readonly plan: number;
  /** The same with the cached plan: to the first `open`. */
  readonly planUnchanged: number;
  /** From there to the last answer to `open`. */
  readonly distribute: number;
  /** Bytes to the host that got most, in the cold update; and the longest message of it. */
  readonly hostBytes: number;
  readonly longest: number;
  /** The process with all ranks in it. */
  readonly peakResident: number;
}

/** When messages of the update that runs went by, and what they weighed. */
class Watch {
  readonly #first = new Map<string, number>();
  readonly #last = new Map<string, number>();
  readonly #toHost = new Map<string, number>();
  #longest = 0;
  /** Bytes of the longest document: a plan is shorter. */
  manifest = 0;
  readonly #asked = new Map<string, string>();

  onSent({ from, to, envelope, bytes }: InFlight): void {
    const type = this.#typeOf(from, to, envelope);
    const now = performance.now();
    if (!this.#first.has(type)) this.#first.set(type, now);
    this.#last.set(type, now);
    if (!to.startsWith('host-')) return;
    this.#toHost.set(to, (this.#toHost.get(to) ?? 0) + bytes);
    this.#longest = Math.max(this.#longest, bytes);
  }

  /** Of an answer: `prepare answered`. */
  #typeOf(from: string, to: string, envelope: Envelope): string {
    if (envelope.kind === 'ask') {
      const { type, document } = envelope.body as { readonly type: string; readonly document?: HostDocument };
      this.manifest = Math.max(this.manifest, document?.bytes ?? 0);
      this.#asked.set(`${from} ${envelope.id}`, type);
      return type;
    }
    if (envelope.kind !== 'reply') return envelope.kind;
    return `${this.#asked.get(`${to} ${envelope.id}`)} answered`;
  }

  between(last: string, first: string): number {
    return this.#first.get(first)! - this.#last.get(last)!;
  }

  untilLast(first: string, last: string): number {
    return this.#last.get(last)! - this.#first.get(first)!;
  }

  get hostBytes(): number {
    return Math.max(...this.#toHost.values());
  }

  get longest(): number {
    return this.#longest;
  }
}

let watch = new Watch();
const network = new SimulatedNetwork({
  clock: systemClock,
  delay: () => 0,
  onSent: (message) => watch.onSent(message),
});
const log = { debug() {}, info() {}, warn: console.error, error: console.error };

function systemAt(node: string): ActorSystem {
  const transport = network.join(node);
  return ActorSystem.create({ clock: systemClock, random: { next: () => 0.5 }, log, transport });
}

const idleClient: EngineClient = {
  endpoint: 'http://engine',
  ready: async () => ({ wasDown: false }),
  state: async () => ({ isPaused: null, isSleeping: null, version: null }),
  linkProtocol: async () => 2,
  survey: async () => {},
  pause: async () => {},
  resume: async () => {},
  update: async () => {},
  resetCaches: async () => {},
  label: async () => null,
  answers: async () => [],
  close: async () => {},
};

const supervisorSystem = systemAt('supervisor');

function startSupervisor(ranks: number, open: SupervisorPorts['openCheckpoint']): void {
  const ports: SupervisorPorts = {
    launchRank: () => ({ exited: new Promise<string>(() => {}), stop: async () => {} }),
    engineClient: () => idleClient,
    segmentName: (set) => `checkpoint-${set}-`,
    openCheckpoint: open,
  };
  const each = ranks / instances;
  const options = Array.from({ length: instances }, (_, number) => ({
    name: `engine-${number}`,
    endpoint: 'http://engine',
    ranks: Array.from({ length: each }, (_, index) => number * each + index),
  }));
  supervisorSystem.spawn<SupervisorInbox>(
    'supervisor',
    () => new SupervisorActor({ instances: options, spareCheckpoints: 0 }, ports),
    supervisorSpawnOptions,
  );
}

function startHost(number: number): void {
  const system = systemAt(`host-${number}`);
  const supervisor = system.wellKnown<SupervisorMessage>('supervisor', 'supervisor');
  for (let local = 0; local < ranksPerHost; local += 1) {
    const rank = number * ranksPerHost + local;
    const ref: ActorRef<RankMessage> = system.spawn(`rank-${rank}`, () => new FakeRank(), fakeRankOptions);
    system.tell(supervisor, {
      type: 'rank-ready',
      rank,
      ref,
      deviceUuid: `GPU-${rank}`,
      host: `node-${number}`,
      directory: '/dev/shm/weightcast-0123456789ab',
      directoryId: `${number}`,
      nics: [],
      collectiveScope: 'cluster',
      pid: 1,
    });
  }
}

async function measure(ranks: number, count: number): Promise<SupervisorMeasurement> {
  const model = largeModel(count === 0 ? null : count);
  const index = indexOf(model);
  startSupervisor(ranks, async () => index);
  for (let host = 0; host < ranks / ranksPerHost; host += 1) startHost(host);
  const user = systemAt('user');
  const supervisor = user.wellKnown<SupervisorMessage>('supervisor', 'supervisor');
  const request = <E extends SupervisorExchange>(exchange: E, fields: Parameters<typeof ask<E>>[3]) =>
    ask(user, supervisor as ActorRef<Question<E>>, exchange, fields, { deadlineMilliseconds });
  await request(toSupervisor.awaitReady, {});
  const timed = async (work: () => Promise<unknown>) => {
    watch = new Watch();
    const startedAt = performance.now();
    await work();
    return { milliseconds: performance.now() - startedAt, seen: watch };
  };
  const source = { kind: 'path', path: '/models/large' } as const;
  const registered = await timed(() => request(toSupervisor.register, { checkpoint: 'large', source }));
  const options = {
    memoryFraction: 0.9,
    verify: { arrived: true, installed: false },
    baseline: null,
    acceptUnproven: false,
    atomic: true,
    heal: false,
    keepCopy: true,
    timeoutMilliseconds: deadlineMilliseconds,
  };
  const update = () => request(toSupervisor.update, { checkpoint: 'large', options });
  const cold = await timed(update);
  const unchanged = await timed(update);
  return {
    tensors: model.length,
    manifest: cold.seen.manifest,
    register: registered.milliseconds,
    cold: cold.milliseconds,
    unchanged: unchanged.milliseconds,
    plan: cold.seen.between('prepare answered', 'write-document'),
    planUnchanged: unchanged.seen.between('prepare answered', 'open'),
    distribute: cold.seen.untilLast('write-document', 'open answered'),
    hostBytes: cold.seen.hostBytes,
    longest: cold.seen.longest,
    peakResident: process.resourceUsage().maxRSS * 1024,
  };
}

const [ranks, tensors] = process.argv.slice(2).map(Number);
process.send!(await measure(ranks!, tensors!));
process.exit(0);
