import { readFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { setTimeout as wait } from 'node:timers/promises';
import { AgentActor, agentSpawnOptions, isLater } from '../actors/agents/agent.ts';
import { ActorSystem } from '../actors/kernel/index.ts';
import { deadlines } from '../actors/protocol/deadlines.ts';
import type { HostsMessage } from '../actors/protocol/hosts.ts';
import { asFailure, PeerLostError, type WeightcastError } from '../errors.ts';
import { Faults } from '../faults/faults.ts';
import { withMessageFaults } from '../faults/transport.ts';
import { systemClock } from '../native-bridge/clock.ts';
import { createLog } from '../observe/log.ts';
import type { Logger } from '../ports.ts';
import { limitsOf } from '../transport/limits.ts';
import { nodeName } from '../transport/node-name.ts';
import { SpokeTransport } from '../transport/spoke.ts';
import { AgentRanks } from './agent-ranks.ts';
import { type JoinDocument, keysOf } from './join-document.ts';
import { processVariable } from './process-variable.ts';
import { stopTimes } from './stop-times.ts';
import { sweepSharedMemory } from './sweep.ts';

/** A hub that is closing, or that has not noticed yet that this process was cut off, refuses for a moment. */
const retryMilliseconds = 500;

/**
 * The agent of one host: the parent of its ranks. It outlives supervisors: cut off from one, it looks for it, or for the next
 * one, and ends itself and its ranks if none comes. Ranks that outlive it are its successor's.
 *
 * Resolves with the names of ranks that had to be killed, when the cluster or `signal` has ended it. Rejects when there was no
 * supervisor for too long, or it refuses this agent; then all ranks have ended, too. `onJoined` is called whenever a
 * supervisor has taken it in.
 */
export async function runAgent(
  document: JoinDocument,
  signal: AbortSignal,
  onJoined: () => void = () => {},
): Promise<readonly string[]> {
  const { inherited, environment } = document;
  // A secret, or the path of one, that is none of the ranks' business.
  delete process.env.WEIGHTCAST_JOIN;
  Object.assign(process.env, { ...inherited, ...process.env, ...environment });
  const faults = Faults.of(process.env, 'agent');
  const log = createLog(`agent-${document.host}`);
  sweepSharedMemory();
  const ranks = await AgentRanks.open(document, { [processVariable]: 'agent' }, log);
  try {
    await serve(document, { ranks, signal, onJoined, log, faults });
  } finally {
    await ranks.endAll(stopTimes(document.stopTimeoutMilliseconds).agent);
    ranks.close();
    // What ranks that were killed have left.
    sweepSharedMemory();
  }
  return ranks.killed;
}

/** What lasts from one supervisor to the next. */
interface Life {
  readonly ranks: AgentRanks;
  readonly signal: AbortSignal;
  readonly onJoined: () => void;
  readonly log: Logger;
  readonly faults: Faults | null;
}

/** From one supervisor to the next. */
async function serve(document: JoinDocument, life: Life): Promise<void> {
  const { signal, log } = life;
  let milliseconds = document.startTimeoutMilliseconds;
  let alone = systemClock.now();
  for (;;) {
    const session = await connect(document, signal, alone + milliseconds, log);
    if (session === null) return;
    const { hasJoined, failure } = await stay(session, document, life);
    if (failure === null) return;
    if (!isLater(failure)) throw failure;
    log.warn({ error: failure.message }, 'cut off from the supervisor');
    if (!hasJoined) await wait(retryMilliseconds);
    else {
      milliseconds = document.orphanTimeoutMilliseconds;
      alone = systemClock.now();
    }
  }
}

/** Null when the signal ends it. Rejects when there is no hub until then. */
async function connect(
  document: JoinDocument,
  signal: AbortSignal,
  end: number,
  log: Logger,
): Promise<SpokeTransport | null> {
  for (;;) {
    try {
      return await SpokeTransport.connect({
        // A hub that has given this process up takes it under another name only.
        node: nodeName('agent'),
        endpoint: document.endpoint,
        keys: keysOf(document),
        clock: systemClock,
        log,
        limits: limitsOf(process.env),
        deadlineMilliseconds: Math.max(1, end - systemClock.now()),
        signal,
      });
    } catch (thrown) {
      if (signal.aborted) return null;
      const failure = asFailure(thrown);
      if (!(failure instanceof PeerLostError)) throw failure;
      if (systemClock.now() + retryMilliseconds >= end)
        throw new PeerLostError(`the agent of host ${document.host} gives up: ${failure.message}`);
      await wait(retryMilliseconds);
    }
  }
}

/** Until the supervisor is lost or refuses this agent; `failure` is null when the cluster or the signal ends it. */
async function stay(
  transport: SpokeTransport,
  { host, stopTimeoutMilliseconds }: JoinDocument,
  { ranks, signal, onJoined, log, faults }: Life,
): Promise<{ readonly hasJoined: boolean; readonly failure: WeightcastError | null }> {
  let hasJoined = false;
  let system!: ActorSystem;
  const over = new Promise<WeightcastError | null>((resolve) => {
    signal.addEventListener('abort', () => resolve(null), { once: true });
    if (signal.aborted) resolve(null);
    system = ActorSystem.create({
      clock: systemClock,
      random: { next: Math.random },
      log,
      transport: withMessageFaults(transport, faults),
      onTopLevelCrash: (_ref, error) =>
        resolve(new PeerLostError(`the agent's actor failed: ${error.message}`)),
    });
    const ports = {
      host,
      machine: machineOf(),
      machineName: hostname(),
      ranks,
      joined: () => {
        hasJoined = true;
        log.info({}, 'joined the cluster');
        onJoined();
      },
      left: resolve,
      end: () => resolve(null),
    };
    const hosts = system.wellKnown<HostsMessage>(transport.hub ?? 'lost~0', 'hosts');
    system.spawn('agent', () => new AgentActor(ports, hosts), agentSpawnOptions);
  });
  const failure = await over;
  if (failure !== null) ranks.onEnded(null);
  // Ranks end while it can still be said how.
  if (failure === null) await ranks.endAll(stopTimes(stopTimeoutMilliseconds).agent);
  await system
    .stop(deadlines.control)
    .catch((thrown) => log.error({ error: asFailure(thrown).message }, 'agent'));
  await transport.close(1_000);
  return { hasJoined, failure };
}

/** Two with the same one see the same shared memory and processes, unless containers part them. */
function machineOf(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
}
