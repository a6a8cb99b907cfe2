import { setTimeout as sleep } from 'node:timers/promises';
import { describe, PeerLostError, type WeightcastError } from '../../src/errors.ts';
import type { ClusterStatus } from '../../src/index.ts';
import { isRunning } from '../../src/processes/is-running.ts';
import { processesWith } from './census.ts';
import type { RealFault, Scene, Victim } from './faults.ts';
import { type FaultFleet, rankOf, silenceSeconds } from './fleet.ts';
import { beforeFault } from './harness-error.ts';
import { brokenInvariants } from './invariants.ts';
import { leaksOf, type Settled } from './leaks.ts';
import { type CheckpointName, checkpoints, passing, type RealMoment, reached, updateAll } from './moments.ts';
import { touchedBy } from './real-faults.ts';
import { answerOf, messageOf, type Outcome, Watched } from './watched.ts';

/** What became of one cell of the matrix of real processes. Milliseconds from the fault on; null: never. */
export interface RealResult {
  /** Until a status, an event or the answer showed it. */
  readonly detected: number | null;
  /** Until the request was answered; when idle, a status. */
  readonly answered: number | null;
  readonly answer: string;
  /** Until another process is ready in place of the one that died or was killed; null too if none has to. */
  readonly back?: number | null;
  /** Of the error that it was, or of the first instance that has one; null if all is well. */
  readonly message: string | null;
  /** Until all instances had been updated to one version. */
  readonly recovered: number | null;
  /** Bytes of registered checkpoints that were gone. */
  readonly lostBytes: number;
  /** What must not be: leaks, requests that failed, weights that are not right. */
  readonly violations: readonly string[];
}

const reachMilliseconds = 20_000;
/** Longer than any deadline of a request. */
const unboundedMilliseconds = 100_000;
const pollMilliseconds = 15;
const againMilliseconds = 100;

/** One run of a fault at a moment on a fleet that is whole. Throws if the moment does not come. */
export class Cell {
  readonly #fleet: FaultFleet;
  readonly #fault: RealFault;
  readonly #when: RealMoment;
  readonly #settled: Settled;
  readonly #violations: string[] = [];
  #before: ClusterStatus | null = null;
  #supervisor = 0;
  /** The process that waits at the moment. */
  #held: number | null = null;
  /** That of the other host, where it is the victim. */
  #agent = 0;
  #at = 0;
  /** To the request, or to the status that was asked for when idle. */
  #answer: Outcome | null = null;

  constructor(fleet: FaultFleet, settled: Settled, fault: RealFault, when: RealMoment) {
    this.#fleet = fleet;
    this.#settled = settled;
    this.#fault = fault;
    this.#when = when;
  }

  async run(checkpoint: CheckpointName): Promise<RealResult> {
    const fleet = this.#fleet;
    const registered = (await fleet.owner.call('status')).checkpoints;
    const failedBefore = this.#failedRequests();
    const request = await beforeFault(() => this.#reach(checkpoint));
    await this.#inject();
    const detection = this.#detect(request);
    const returned = new AbortController();
    const back = this.#back(returned.signal);
    const answered = await this.#answered(request);
    // A status is answered at once, also while a process is silent that nobody misses yet.
    if (request === null) await detection;
    await this.#heal();
    const detected = await detection;
    if (this.#hasCluster())
      this.#violations.push(
        ...(await brokenInvariants(fleet, this.#before, touchedBy(this.#fault, this.#when))),
      );
    const { recovered, names } = await this.#recover(other(checkpoint));
    // The cells that follow begin with all processes.
    if (this.#fault.victim === 'agent' && recovered !== null) {
      await fleet.agent(reachMilliseconds);
      await sleep(againMilliseconds);
    }
    returned.abort();
    const lost = registered.filter(
      ({ checkpoint: name }) => names?.includes(name) === false && name !== passing.name,
    );
    const lostBytes = lost.reduce((sum, { bytes }) => sum + bytes, 0);
    const failed = this.#failedRequests() - failedBefore;
    if (failed > 0 && this.#fault.harmsRequests !== true)
      this.#violations.push(`${failed} requests to engines failed`);
    const answer = answerOf(this.#answer);
    return {
      detected,
      answered,
      answer,
      back: await back,
      message: messageOf(this.#answer),
      recovered,
      lostBytes,
      violations: this.#violations,
    };
  }

  /** Whether the cluster is to live on. */
  #hasCluster(): boolean {
    const diesWithOwner = this.#fault.victim === 'owner' && this.#fault.stops !== true;
    return !diesWithOwner && this.#when !== 'start' && this.#when !== 'stopping';
  }

  /** Begins the request, and resolves when the moment of the fault has come. Null: there is no request. */
  async #reach(checkpoint: CheckpointName): Promise<Watched | null> {
    const fleet = this.#fleet;
    const { prepare, hold, begin } = reached[this.#when];
    await prepare?.(fleet, checkpoint);
    if (this.#when !== 'start') {
      this.#before = await fleet.owner.call('status');
      this.#supervisor = await fleet.owner.call('supervisorPid');
    }
    const order = this.#fault.order ?? hold;
    if (order !== null) fleet.orders.give(order);
    const work = begin(fleet, checkpoint);
    const request = work === null ? null : new Watched(work);
    const fired = order === null ? null : await this.#untilFired(request);
    if (this.#when === 'start') this.#supervisor = await fleet.owner.call('supervisorPid');
    if (this.#fault.order === undefined) this.#held = fired?.pid ?? null;
    else this.#at = fired!.at;
    if (this.#fault.victim === 'agent') this.#agent = await fleet.agent(reachMilliseconds);
    return request;
  }

  async #inject(): Promise<void> {
    if (this.#fault.order === undefined) this.#at = Date.now();
    await this.#fault.inject?.(this.#scene);
    const { victim, stops } = this.#fault;
    const staysStopped = stops === true && victim !== null && this.#pidOf(victim) === this.#held;
    if (this.#held !== null && !staysStopped) send(this.#held, 'SIGCONT');
  }

  async #untilFired(request: Watched | null) {
    const end = Date.now() + reachMilliseconds;
    for (;;) {
      const fired = this.#fleet.orders.fired();
      if (fired !== null) return fired;
      if (Date.now() > end || (request?.outcome ?? null) !== null)
        throw new Error(
          `the moment did not come: ${messageOf(request?.outcome ?? null) ?? answerOf(request?.outcome ?? null)}`,
        );
      await sleep(2);
    }
  }

  get #scene(): Scene {
    return { fleet: this.#fleet, pidOf: (victim) => this.#pidOf(victim) };
  }

  #pidOf(victim: Victim): number {
    const rank = (number: number) => {
      const isStarting = this.#when === 'start' || (this.#when === 'join: start' && number === rankOf.c);
      return isStarting ? this.#held! : this.#before!.ranks.find((one) => one.rank === number)!.pid!;
    };
    const engine = this.#fleet.engines.get(this.#when === 'joining' ? 'c' : 'a')!;
    switch (victim) {
      case 'owner':
        return this.#fleet.owner.pid;
      case 'supervisor':
        return this.#supervisor;
      case 'agent':
        return this.#agent;
      case 'feeds':
        return rank(rankOf.a);
      case 'receives':
        return rank(rankOf.c);
      case 'worker':
        return engine.workerPids[0]!;
      case 'http':
        return engine.serverPid;
    }
  }

  /** Milliseconds until something shows it. */
  async #detect(request: Watched | null): Promise<number | null> {
    if (this.#fault.limit === 'unseen' || this.#fault.limit === 'busy') return null;
    const end = Date.now() + unboundedMilliseconds;
    const { owner } = this.#fleet;
    const losses = owner.lost.length;
    let asked: Watched | null = null;
    while (Date.now() < end) {
      if (owner.lost.length > losses) return owner.lost[losses]! - this.#at;
      if ((request?.outcome ?? null) !== null) return request!.at - this.#at;
      if (asked?.outcome !== null && asked !== null) {
        if ('value' in asked.outcome && this.#shows(asked.outcome.value as ClusterStatus))
          return asked.at - this.#at;
        if ('error' in asked.outcome) return asked.at - this.#at;
        // What concerns nothing that runs has no sign.
        if (request === null && this.#fault.limit !== 'death' && this.#fault.limit !== 'silence') return null;
        if (request === null && Date.now() - this.#at > 2_000 * silenceSeconds) return null;
        asked = null;
      }
      if (this.#before !== null && this.#when !== 'stopping') asked ??= new Watched(owner.call('status'));
      await sleep(pollMilliseconds);
    }
    return null;
  }

  /** Milliseconds until another process is ready in place of the victim, if there is one by the time of the abort. */
  async #back(ended: AbortSignal): Promise<number | null> {
    const { owner } = this.#fleet;
    const { victim, limit } = this.#fault;
    if (victim === 'agent') return this.#agentBack(ended);
    const rank = victim === 'feeds' ? rankOf.a : victim === 'receives' ? rankOf.c : null;
    const before = this.#before?.ranks.find((one) => one.rank === rank)?.pid ?? null;
    const isReplaced = limit === 'death' || limit === 'silence';
    if (!isReplaced || !this.#hasCluster() || (victim !== 'supervisor' && before === null)) return null;
    const replacements = owner.replaced.length;
    while (!ended.aborted) {
      if (victim === 'supervisor' && owner.replaced.length > replacements)
        return owner.replaced[replacements]! - this.#at;
      const status = victim === 'supervisor' ? null : await owner.call('status').catch(() => null);
      const now = status?.ranks.find((one) => one.rank === rank);
      if (now?.state === 'ready' && now.pid !== before) return Date.now() - this.#at;
      await sleep(pollMilliseconds);
    }
    return null;
  }

  async #agentBack(ended: AbortSignal): Promise<number | null> {
    while (!ended.aborted) {
      if (this.#fleet.agents().some((pid) => pid !== this.#agent)) return Date.now() - this.#at;
      await sleep(againMilliseconds);
    }
    return null;
  }

  #shows(status: ClusterStatus): boolean {
    const pids = new Map(this.#before!.ranks.map(({ rank, pid }) => [rank, pid]));
    return (
      status.ranks.some(
        ({ rank, state, pid }) =>
          state === 'down' || ((pids.get(rank) ?? null) !== null && pid !== pids.get(rank)),
      ) || status.instances.some(({ state, problem }) => state === 'broken' || problem !== null)
    );
  }

  async #answered(request: Watched | null): Promise<number | null> {
    const end = Date.now() + unboundedMilliseconds;
    if (this.#fault.victim === 'owner') return this.#ownerAnswered(request, end);
    const watched = request ?? new Watched(this.#fleet.owner.call('status'));
    return this.#untilAnswered(watched, end);
  }

  async #untilAnswered(watched: Watched, end: number): Promise<number | null> {
    while (watched.outcome === null && Date.now() < end) await sleep(pollMilliseconds);
    this.#answer = watched.outcome;
    return watched.outcome === null ? null : watched.at - this.#at;
  }

  /** An owner that has died has nobody to answer: until all of its processes have ended. One that is stopped is not dead. */
  async #ownerAnswered(request: Watched | null, end: number): Promise<number | null> {
    const { owner } = this.#fleet;
    if (this.#fault.stops === true) {
      await sleep(1_000 * (silenceSeconds + 1));
      send(owner.pid, 'SIGCONT');
      return this.#untilAnswered(request ?? new Watched(owner.call('status')), end);
    }
    this.#answer = { error: new PeerLostError('the owner is dead') };
    const engines = [...this.#fleet.engines.values()].flatMap(({ pids }) => pids);
    const left = () => processesWith(this.#fleet.mark).filter((pid) => !engines.includes(pid));
    while (left().length > 0 && Date.now() < end) await sleep(pollMilliseconds);
    return left().length > 0 ? null : Date.now() - this.#at;
  }

  async #heal(): Promise<void> {
    this.#fleet.orders.clear();
    await this.#fault.heal?.(this.#scene);
    if (this.#held !== null) send(this.#held, 'SIGCONT');
  }

  #failedRequests(): number {
    return [...this.#fleet.loads.values()].reduce((sum, load) => sum + load.report().failed, 0);
  }

  /** Updates until all instances have one version; starts again what has ended. */
  async #recover(
    checkpoint: CheckpointName,
  ): Promise<{ recovered: number | null; names: readonly string[] | null }> {
    const fleet = this.#fleet;
    const end = Date.now() + unboundedMilliseconds;
    let names: readonly string[] | null = null;
    let failure: unknown = null;
    while (Date.now() < end) {
      try {
        await fleet.repair();
        names = (await restore(fleet, this.#when)) ?? names;
        await updateAll(fleet, checkpoint, true);
        const recovered = Date.now() - this.#at;
        await fleet.verify(checkpoints[checkpoint]);
        await fleet.owner.call('unregister', passing.name).catch(() => {});
        this.#violations.push(...(await leaksOf(fleet, this.#settled)));
        return { recovered, names };
      } catch (error) {
        failure = error;
        await sleep(againMilliseconds);
      }
    }
    this.#violations.push(`the last attempt failed with: ${describe(failure)}`);
    return { recovered: null, names };
  }
}

/** An owner, a cluster, and all instances in it. Returns what was registered before it registered anything. */
async function restore(fleet: FaultFleet, when: RealMoment): Promise<readonly string[]> {
  const isStopped = when === 'stopping' && !fleet.owner.hasEnded;
  if (isStopped) {
    await fleet.owner.call('stop').catch(() => {});
    await fleet.owner.end();
  }
  const status = fleet.owner.hasEnded ? null : await fleet.owner.call('status').catch(statusOrNone);
  if (status === null) {
    await fleet.owner.end();
    // What the last owner left paused holds parts of two versions, and is its operator's to resume.
    await fleet.resumeEngines();
    await fleet.startOwner();
  }
  const now = status ?? (await fleet.owner.call('status'));
  if (!now.instances.some(({ name }) => name === 'c'))
    await fleet.owner.call('addInstance', fleet.instance('c'));
  const names = now.checkpoints.map(({ checkpoint }) => checkpoint);
  for (const [name, seed] of Object.entries(checkpoints))
    if (!names.includes(name)) await fleet.owner.call('register', name, await fleet.model(seed));
  return status === null ? [] : names;
}

function statusOrNone(error: WeightcastError): null {
  if (error.code === 'WEIGHTCAST_USAGE' || error.code === 'WEIGHTCAST_ABORTED') return null;
  throw error;
}

export function other(checkpoint: CheckpointName): CheckpointName {
  return checkpoint === 'one' ? 'two' : 'one';
}

function send(pid: number, signal: NodeJS.Signals): void {
  if (isRunning(pid)) process.kill(pid, signal);
}
