import { randomBytes } from 'node:crypto';
import { setTimeout as wait } from 'node:timers/promises';
import { type ActorRef, ActorSystem, type PeerEvent } from '../actors/kernel/index.ts';
import { deadlines } from '../actors/protocol/deadlines.ts';
import type { Instance } from '../actors/protocol/instance.ts';
import {
  type SupervisorExchange,
  type SupervisorMessage,
  toSupervisor,
} from '../actors/protocol/supervisor.ts';
import { RestartBackoff } from '../actors/supervisor/restart-backoff.ts';
import { AbortedError, asFailure, DeadlineError, NotReadyError, UsageError } from '../errors.ts';
import { Faults } from '../faults/faults.ts';
import { withMessageFaults } from '../faults/transport.ts';
import { systemClock } from '../native-bridge/clock.ts';
import { SharedDirectory } from '../native-bridge/memory.ts';
import { createLog } from '../observe/log.ts';
import type { Logger } from '../ports.ts';
import type { OwnerReport, SupervisorConfiguration } from '../processes/configuration.ts';
import { joinText } from '../processes/join-document.ts';
import { processVariable } from '../processes/process-variable.ts';
import { stopTimes } from '../processes/stop-times.ts';
import { endSurvivors } from '../processes/survivor.ts';
import { sweepSharedMemory } from '../processes/sweep.ts';
import { issueOf } from '../schema-issue.ts';
import { createClusterKeys, createKeyPair, spokeKeys } from '../transport/curve.ts';
import { limitsOf } from '../transport/limits.ts';
import { nodeName } from '../transport/node-name.ts';
import { SpokeTransport } from '../transport/spoke.ts';
import { within } from '../within.ts';
import { withNumericAddresses } from './addresses.ts';
import { configurationOf, type Made } from './configuration.ts';
import { LaunchedAgents } from './launched-agents.ts';
import { LeftEngines } from './left-engines.ts';
import type { ClusterOptions } from './options.ts';
import type { SupervisorEvent } from './supervisor-fate.ts';
import { type AnswerTo, type FieldsOf, SupervisorLife } from './supervisor-life.ts';
import { Workers } from './workers.ts';

/** What is asked while another supervisor starts waits for it this long at most. */
const mostReplacingMilliseconds = 30_000;
/** A supervisor whose connection has gone may say why, and is killed then. */
const lastWordsMilliseconds = 500;
/** Ranks that have outlived their supervisor are ready in a second or two. */
const readyMilliseconds = 10_000;

/** How a cluster has ended. */
export interface StopReport {
  /** Processes that did not end by themselves and had to be killed: `rank 3 on host node-2 (process 4711)`. */
  readonly killed: readonly string[];
  /** What is to be said of engines that an update has left paused or broken: what became of each, and what to do about it. */
  readonly engines: readonly string[];
}

/**
 * The supervisor's process, which starts and ends the rank processes, and this process's connection to it. When it dies
 * another one takes its place, to which the ranks go over, and which knows what was registered.
 */
export class ClusterConnection {
  readonly fabricSecret: string;
  /** Of its instances, and of those that are being added. */
  readonly workers = new Workers();
  readonly #configuration: SupervisorConfiguration;
  readonly #directory: SharedDirectory;
  /** Instances of the cluster, by name: another supervisor is told of them. */
  readonly #instances: Map<string, Instance>;
  readonly #engines: LeftEngines;
  readonly #agents: LaunchedAgents;
  readonly #onEvent: (event: SupervisorEvent) => void;
  readonly #onReplaced: (() => Promise<void>)[] = [];
  readonly #closing = new AbortController();
  readonly #backoff = new RestartBackoff(systemClock, { next: Math.random });
  #system!: ActorSystem;
  #transport!: SpokeTransport;
  #incarnation = 0;
  #remoteEndpoint: string | null = null;
  #life: SupervisorLife;
  /** Settles when another supervisor has taken over; null while there is one. */
  #replacing: Promise<void> | null = null;
  /** How the last supervisor ended, or why its successor did not start. */
  #loss = '';
  #hubChanged = () => {};

  private constructor(options: ClusterOptions, made: Made) {
    this.fabricSecret = made.fabricSecret;
    this.#directory = made.directory;
    this.#configuration = configurationOf(options, made);
    const instances = this.workers.take(options.instances);
    this.#instances = new Map(instances.map((instance) => [instance.name, instance]));
    this.#engines = new LeftEngines(instances, this.#configuration.stopTimeoutMilliseconds);
    this.#onEvent = options.onSupervisor ?? (() => {});
    this.#agents = new LaunchedAgents(this.#configuration, made.hostKeys, (host, how) =>
      this.#life.process.send({ kind: 'agent-ended', host, how } satisfies OwnerReport),
    );
    this.#life = this.#startSupervisor();
  }

  /** Starts the supervisor, which starts the ranks. When it rejects, nothing is left running. */
  static async open(given: ClusterOptions): Promise<ClusterConnection> {
    checkNotWithin();
    const timeout = given.startTimeoutMilliseconds ?? deadlines.start;
    const options = await withNumericAddresses(given, timeout);
    const log = createLog('cluster');
    sweepSharedMemory();
    const id = randomBytes(6).toString('hex');
    const directory = new SharedDirectory(`/dev/shm/weightcast-${id}`);
    const hostNames = Object.keys(options.hosts ?? {});
    const hostKeys = Object.fromEntries(hostNames.map((name) => [name, createKeyPair()] as const));
    const others = Object.values(hostKeys).map(({ publicKey }) => publicKey);
    const secrets = {
      keys: { ...createClusterKeys(), others },
      hostKeys,
      fabricSecret: randomBytes(32).toString('hex'),
    };
    const connection = new ClusterConnection(options, {
      id,
      ownerNode: nodeName('cluster'),
      directory,
      ...secrets,
    });
    const { process, fate } = connection.#life;
    try {
      await connection.#connect(log);
      return connection;
    } catch (error) {
      const { stopTimeoutMilliseconds } = connection.#configuration;
      await process.stop(stopTimeoutMilliseconds);
      await connection.#agents.close();
      await endSurvivors(directory.path, stopTimes(stopTimeoutMilliseconds).grace);
      directory.close();
      throw fate.failure ?? error;
    }
  }

  get system(): ActorSystem {
    return this.#system;
  }

  get supervisor(): ActorRef<SupervisorMessage> {
    return this.#life.ref;
  }

  /** The content of the join file of a host. Rejects with `PeerLostError` if the supervisor dies before it listens. */
  async joinText(host: string): Promise<string> {
    this.#remoteEndpoint ??= await this.#life.fate.listening();
    return joinText(this.#agents.documentOf(host, this.#remoteEndpoint));
  }

  /** `restore` is called whenever another supervisor has taken over, before anything else is asked of it. */
  onReplaced(restore: () => Promise<void>): void {
    this.#onReplaced.push(restore);
  }

  /** From now on the instance is in the cluster, or no longer. */
  joined(instance: Instance): void {
    this.#instances.set(instance.name, instance);
    this.#engines.joins(instance);
  }

  left(name: string): void {
    const instance = this.#instances.get(name);
    if (instance !== undefined) this.workers.release(instance);
    this.#instances.delete(name);
    this.#engines.left(name);
  }

  /**
   * Waits for another supervisor first, if the last one has died. Rejects with `UsageError` for a value that the protocol does
   * not allow, before anything is sent; with `PeerLostError` when the supervisor dies before it has answered, and with
   * `NotReadyError` if no other one is there in time: then the same may be asked again.
   */
  async ask<E extends SupervisorExchange>(
    exchange: E,
    fields: FieldsOf<E>,
    deadlineMilliseconds: number,
  ): Promise<AnswerTo<E>> {
    checkFields(exchange, fields);
    await this.#present(Math.min(deadlineMilliseconds, mostReplacingMilliseconds));
    return this.askNew(exchange, fields, deadlineMilliseconds);
  }

  /** The same of a supervisor that does not count as present yet: what another one has to be told. */
  askNew<E extends SupervisorExchange>(
    exchange: E,
    fields: FieldsOf<E>,
    deadlineMilliseconds: number,
  ): Promise<AnswerTo<E>> {
    return this.#life.ask(this.system, exchange, fields, deadlineMilliseconds);
  }

  /** Aborts running work and ends all processes. */
  async close(): Promise<StopReport> {
    this.#closing.abort(new AbortedError('the cluster is stopping'));
    await this.#replacing?.catch(() => {});
    const { stopTimeoutMilliseconds: milliseconds } = this.#configuration;
    const { process, fate } = this.#life;
    const isLost = fate.lost.aborted;
    const { wasKilled } = await process.stop(milliseconds);
    // One that ends by itself has resumed those that answered.
    const isSaid = !isLost && !wasKilled;
    const engines = await this.#engines.settle(isSaid);
    for (const words of engines) createLog('cluster').error({}, words);
    // Ranks that no supervisor has ended.
    const [survivors, agents] = await Promise.all([
      endSurvivors(this.#directory.path, stopTimes(milliseconds).grace),
      this.#agents.close(),
    ]);
    try {
      await this.system.stop(5_000);
    } finally {
      await this.#transport.close(1_000);
      this.#directory.close();
      // What killed ranks of this machine's other hosts have left.
      sweepSharedMemory();
    }
    const supervisor = wasKilled ? [`the supervisor (process ${process.pid})`] : [];
    return { killed: [...supervisor, ...fate.killed, ...survivors, ...agents], engines };
  }

  async #connect(log: Logger): Promise<void> {
    const { endpoint, keys, ownerNode: node } = this.#configuration;
    this.#transport = await SpokeTransport.connect({
      node,
      endpoint,
      keys: spokeKeys(keys),
      clock: systemClock,
      log,
      deadlineMilliseconds: deadlines.start,
      limits: limitsOf(process.env),
      signal: this.#life.fate.lost,
    });
    const transport = withMessageFaults(this.#transport, Faults.of(process.env, 'owner'));
    const random = { next: Math.random };
    const onPeer = ({ node, state, isFarewell = false }: PeerEvent) => {
      this.#hubChanged();
      // It hangs, or is about to end: ranks have lost it too. When it was asked to end, it takes its leave.
      const { ref, process, fate } = this.#life;
      const isUnexpected = !fate.lost.aborted && !(isFarewell && this.#closing.signal.aborted);
      if (state === 'down' && node === ref.node && isUnexpected) void process.stop(lastWordsMilliseconds);
    };
    this.#system = ActorSystem.create({ clock: systemClock, random, log, transport, onPeer });
    this.#watch();
  }

  #startSupervisor(): SupervisorLife {
    const configuration: SupervisorConfiguration = {
      ...this.#configuration,
      // Ranks of other hosts look for it where the last one was.
      ...(this.#remoteEndpoint !== null && { remoteEndpoint: this.#remoteEndpoint }),
      node: nodeName('supervisor'),
      incarnation: this.#incarnation,
      instances: [...this.#instances.values()],
    };
    this.#incarnation += 1;
    return new SupervisorLife(configuration, this.#engines, this.#agents);
  }

  /** When the supervisor dies, another one is started. */
  #watch(): void {
    const { fate, process } = this.#life;
    const replace = () => {
      if (this.#closing.signal.aborted) return;
      const reason = asFailure(fate.lost.reason);
      this.#loss = reason.message;
      this.#onEvent({ state: 'lost', reason });
      // One that has failed says so before it has ended.
      this.#replacing = process.exited.then(() => this.#replace());
      this.#replacing.catch(() => {});
    };
    if (fate.lost.aborted) replace();
    else fate.lost.addEventListener('abort', replace, { once: true });
  }

  /** Tries for ever, at a slow rate in the end. Rejects only when the cluster is stopping. */
  async #replace(): Promise<void> {
    const { signal } = this.#closing;
    for (;;) {
      this.#remoteEndpoint = this.#life.fate.remoteEndpoint ?? this.#remoteEndpoint;
      await wait(this.#backoff.next(), undefined, { signal });
      this.#life = this.#startSupervisor();
      const life = this.#life;
      try {
        await this.#untilConnected(life);
        const ready = life.ask(this.system, toSupervisor.awaitReady, {}, readyMilliseconds);
        // Ranks that are not ready by then may be for long; what is asked says so.
        await ready.catch(() => {});
        for (const restore of this.#onReplaced) await restore();
        life.fate.lost.throwIfAborted();
        break;
      } catch (thrown) {
        this.#loss = asFailure(thrown).message;
        if (!signal.aborted)
          createLog('cluster').error({ error: this.#loss }, 'another supervisor did not start');
        await life.process.stop(0);
      }
    }
    signal.throwIfAborted();
    this.#backoff.ready();
    this.#replacing = null;
    this.#onEvent({ state: 'replaced' });
    this.#watch();
  }

  async #untilConnected({ ref, fate }: SupervisorLife): Promise<void> {
    const connected = new Promise<void>((resolve, reject) => {
      const check = () => this.#transport.hub === ref.node && resolve();
      const fail = (signal: AbortSignal) => reject(signal.reason);
      for (const signal of [fate.lost, this.#closing.signal])
        signal.addEventListener('abort', () => fail(signal), { once: true });
      this.#hubChanged = check;
      check();
    });
    if (await within(systemClock, deadlines.start, connected)) return;
    throw new DeadlineError(`${ref.node} is not to be reached after ${deadlines.start / 1_000} s`);
  }

  /** Resolves when there is a supervisor. */
  async #present(milliseconds: number): Promise<void> {
    const replacing = this.#replacing;
    if (this.#closing.signal.aborted) throw this.#closing.signal.reason;
    if (replacing === null || (await within(systemClock, milliseconds, replacing))) return;
    throw new NotReadyError(
      `no supervisor has started yet in place of the one that died (${this.#loss}); try again`,
    );
  }
}

/** A module that is loaded before every program of node, and starts a cluster, would start one in each of its processes. */
function checkNotWithin(): void {
  if (process.env[processVariable] === undefined) return;
  throw new UsageError(
    'a process of a cluster cannot start a cluster: a module that NODE_OPTIONS or --import loads first does so',
  );
}

/** Throws a UsageError that names the option: what a caller gives wrong is no fault of a process. */
function checkFields(exchange: SupervisorExchange, fields: object): void {
  const parsed = exchange.schema.safeParse({ type: exchange.type, ...fields });
  if (parsed.success) return;
  const { path, message } = issueOf(parsed.error);
  const option = path.filter((part) => part !== 'options').join('.');
  throw new UsageError(`${exchange.type}: invalid ${option}: ${message}`);
}
