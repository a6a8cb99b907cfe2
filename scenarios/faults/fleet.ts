import { mkdtempSync, rmSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { request } from 'undici';
import { openCheckpoint } from '../../src/checkpoint/source.ts';
import type { ClusterOptions, InstanceOptions } from '../../src/index.ts';
import { isRunning } from '../../src/processes/is-running.ts';
import { sweepSharedMemory } from '../../src/processes/sweep.ts';
import { HostNetwork, whyNoNamespaces } from '../host-network.ts';
import { LoadGenerator } from '../load-generator.ts';
import { ampleMemory } from '../model.ts';
import { writeQwen3Model } from '../qwen3-model.ts';
import { type RunningEngine, startReferenceEngine } from '../reference-engine/index.ts';
import { verifyWeights } from '../verify-weights.ts';
import { commandOf, contentOf, processesWith } from './census.ts';
import { FaultOrders } from './orders.ts';
import { Owner } from './owner.ts';

/** Silence after which one process takes another one for dead: the least that there is, and some. */
export const silenceSeconds = 3;
export const modelBytes = 16 * 2 ** 20;
const startMilliseconds = 20_000;
const stopMilliseconds = 20_000;
/** Ranks whose supervisor has died, and whose owner too, end after this. */
const orphanMilliseconds = 5_000;
const pollMilliseconds = 50;
const far = 'far';

/** By instance, its rank. Two of them share this host; the third is on another one, in a network namespace where there can be one. */
export const rankOf = { a: 0, b: 1, c: 2 } as const;
export type InstanceName = keyof typeof rankOf;
export const instanceNames = Object.keys(rankOf) as InstanceName[];

/**
 * Real processes that faults are injected into: three engines, which answer requests all the while, and a cluster whose owner
 * is a process of its own. What a fault has ended is started again by {@link repair}.
 */
export class FaultFleet {
  readonly scratch = mkdtempSync(join(tmpdir(), 'weightcast-faults-'));
  readonly orders = new FaultOrders(join(this.scratch, 'orders'));
  /** Why there is no network between hosts; undefined if there is. */
  readonly whyNoNetwork = whyNoNamespaces();
  readonly network = this.whyNoNetwork === undefined ? new HostNetwork(1) : null;
  readonly engines = new Map<InstanceName, RunningEngine>();
  readonly loads = new Map<InstanceName, LoadGenerator>();
  /** What all processes of it have in their environment. */
  readonly mark = `WEIGHTCAST_FAULTS=@${join(this.scratch, 'orders')}`;
  readonly #here = this.network?.connectHere() ?? null;
  readonly #models = new Map<number, string>();
  #owner: Owner | null = null;
  #capacity = 0;

  get owner(): Owner {
    if (this.#owner === null) throw new Error('there is no owner yet');
    return this.#owner;
  }

  /** Starts engines and cluster. */
  async start(): Promise<void> {
    Object.assign(process.env, this.orders.environment);
    this.#capacity = ampleMemory(await openCheckpoint(await this.model(1)));
    for (const name of instanceNames) await this.#startEngine(name, 0);
    for (const [name, { endpoint }] of this.engines)
      this.loads.set(name, new LoadGenerator(endpoint, name, 1));
    await this.startOwner();
  }

  /** The directory of a model with the engines' shapes and other weights. */
  async model(seed: number): Promise<string> {
    const known = this.#models.get(seed);
    if (known !== undefined) return known;
    const directory = join(this.scratch, `model-${seed}`);
    await writeQwen3Model({ directory, bytes: modelBytes, seed });
    this.#models.set(seed, directory);
    return directory;
  }

  /** A new owner, and its cluster. */
  async startOwner(): Promise<void> {
    await this.newOwner().call('start', this.clusterOptions());
  }

  /** Another owner and cluster in place of those that there are. */
  async renewOwner(): Promise<void> {
    await this.owner.call('stop').catch(() => {});
    await this.owner.end();
    await this.startOwner();
  }

  /** A new owner, without a cluster yet. */
  newOwner(): Owner {
    this.#owner = new Owner({
      ...process.env,
      WEIGHTCAST_FABRIC: 'tcp',
      WEIGHTCAST_SILENCE_SECONDS: String(silenceSeconds),
    });
    return this.#owner;
  }

  clusterOptions(): ClusterOptions {
    const place = this.network === null ? {} : { fabricAddresses: [this.network.address(0)] };
    return {
      ranks: instanceNames.length,
      instances: instanceNames.map((name) => this.instance(name)),
      // Whoever opens a device first makes it: after an engine's death, its rank.
      devices: { kind: 'host', namespace: this.#namespace, capacity: this.#capacity },
      hosts: { [far]: { launcher: this.#launcherOf('c'), ...place } },
      ...(this.#here !== null && { listen: `tcp://${this.#here}:*` }),
      startTimeoutMilliseconds: startMilliseconds,
      stopTimeoutMilliseconds: stopMilliseconds,
      orphanTimeoutMilliseconds: orphanMilliseconds,
    };
  }

  instance(name: InstanceName): InstanceOptions {
    const { endpoint } = this.engines.get(name)!;
    const ranks = [rankOf[name]];
    return { name, endpoint, ranks, pause: 'keep', ...(name === 'c' && { host: far }) };
  }

  /** Starts engines again that have died, at their addresses. */
  async repair(): Promise<void> {
    for (const [name, engine] of this.engines) {
      if (engine.pids.every(isRunning)) continue;
      await engine.stop();
      await this.#startEngine(name, Number(new URL(engine.endpoint).port));
    }
  }

  /** Those of the other host: one, but for a moment when another one takes its place. */
  agents(): number[] {
    return processesWith(this.mark).filter((pid) => commandOf(pid).includes('agent-process'));
  }

  /** The one of the other host, as soon as there is one that a signal can reach. */
  async agent(milliseconds: number): Promise<number> {
    for (const end = Date.now() + milliseconds; Date.now() < end; await sleep(pollMilliseconds)) {
      const [agent] = this.agents().filter(takesOrders);
      if (agent !== undefined) return agent;
    }
    throw new Error(`host ${far} has no agent after ${milliseconds} ms`);
  }

  async resumeEngines(): Promise<void> {
    for (const { endpoint } of this.engines.values()) {
      const answer = await request(`${endpoint}/resume`, { method: 'POST' });
      await answer.body.dump();
    }
  }

  /** Compares what all workers of all engines hold with a model. Rejects with `VerificationError`. */
  async verify(seed: number): Promise<void> {
    const index = await openCheckpoint(await this.model(seed));
    for (const { endpoint } of this.engines.values()) await verifyWeights(endpoint, index);
  }

  /** Ends everything that was started; kills what does not end. */
  async end(): Promise<void> {
    this.orders.clear();
    this.network?.mend(0);
    // What a fault has stopped would hear of no end.
    for (const pid of processesWith(this.mark)) process.kill(pid, 'SIGCONT');
    await this.owner.call('stop').catch(() => {});
    await this.owner.end();
    // Requests to engines that are left paused would not end.
    for (const engine of this.engines.values()) await engine.stop();
    await Promise.all([...this.loads.values()].map((load) => load.stop()));
    for (const pid of processesWith(this.mark)) process.kill(pid, 'SIGKILL');
    this.network?.close();
    sweepSharedMemory();
    rmSync(this.scratch, { recursive: true, force: true });
  }

  get #namespace(): string {
    return basename(this.scratch);
  }

  #launcherOf(name: InstanceName): string[] {
    return name === 'c' ? (this.network?.launcher(0) ?? []) : [];
  }

  async #startEngine(name: InstanceName, port: number): Promise<void> {
    const launcher = this.#launcherOf(name);
    const engine = await startReferenceEngine({
      name,
      model: await this.model(1),
      ranks: 1,
      deviceNamespace: this.#namespace,
      deviceCapacity: this.#capacity,
      firstDevice: rankOf[name],
      launcher,
      port,
      ...(launcher.length > 0 && { host: this.network!.address(0) }),
    });
    this.engines.set(name, engine);
  }
}

/** Whether it has got as far as to wait for SIGUSR2, which would end it before. */
function takesOrders(pid: number): boolean {
  const [, caught = '0'] = /^SigCgt:\s*(\w+)$/m.exec(contentOf(`/proc/${pid}/status`)) ?? [];
  return ((BigInt(`0x${caught}`) >> BigInt(constants.signals.SIGUSR2 - 1)) & 1n) === 1n;
}
