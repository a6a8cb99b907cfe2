import type { CheckpointStatus } from '../actors/protocol/checkpoint-values.ts';
import { deadlines } from '../actors/protocol/deadlines.ts';
import type { Progress } from '../actors/protocol/status-values.ts';
import { isOnDevice } from '../checkpoint/file-identity.ts';
import { LastOpened, openCheckpoint } from '../checkpoint/source.ts';
import type { Cluster } from '../cluster/cluster.ts';
import {
  BusyError,
  CheckpointError,
  describe,
  mayPass,
  NotFoundError,
  NotReadyError,
  OverloadedError,
  UsageError,
} from '../errors.ts';
import { ProgressSum } from '../observe/progress-bar.ts';
import type { FileRoots } from './access.ts';
import type { ClusterKeeper } from './cluster-keeper.ts';
import type { EventHub } from './event-hub.ts';
import {
  type CheckpointView,
  type Kept,
  manifestOf,
  pathsOf,
  type Registration,
  viewOf,
} from './kept-checkpoint.ts';
import type { SharedFiles } from './shared-files.ts';

/** More are a mistake: a trainer keeps two or three. */
const mostCheckpoints = 1_024;
/** Between two tries to load while a client registers something else. */
const busyMilliseconds = 100;

const endedWithTrainer =
  'it was in the memory of a device, and has ended with its trainer; publish without on_device what has to outlive it';

/** Between two events of progress. */
const progressMilliseconds = 200;

/** The checkpoints of a daemon: what is loaded, and where from, so that it can be loaded again. */
export class KeptCheckpoints {
  readonly #keeper: ClusterKeeper;
  readonly #roots: FileRoots;
  readonly #shared: SharedFiles;
  readonly #events: EventHub;
  readonly #kept = new Map<string, Kept>();
  /** What is being registered, and those of its files that are the daemon's. */
  readonly #arriving = new Set<{ readonly name: string; readonly owned: readonly string[] }>();
  /** Versions of a publisher have the same headers, which are not parsed again. */
  readonly #opened = new LastOpened();
  /** What is loading now: a cluster loads one at a time. */
  #loading: string | null = null;
  #loaded = new ProgressSum();
  #toldAt = 0;

  constructor(keeper: ClusterKeeper, roots: FileRoots, shared: SharedFiles, events: EventHub) {
    this.#keeper = keeper;
    this.#roots = roots;
    this.#shared = shared;
    this.#events = events;
  }

  views(): CheckpointView[] {
    return [...this.#kept.values()].map(viewOf);
  }

  /** One of them, and its files. Throws `NotFoundError`. */
  view(name: string): CheckpointView & { readonly files: readonly string[] } {
    const kept = this.#get(name);
    return { ...viewOf(kept), files: pathsOf(kept.registration.source) };
  }

  /** Throws `NotFoundError`, and `CheckpointError` if it could not be loaded again. */
  check(name: string): void {
    const { problem } = this.#get(name);
    if (problem !== null) throw new CheckpointError(`checkpoint ${name}: ${problem}; register it again`);
  }

  /** The same for who needs it in memory, where there are ranks: throws also `NotReadyError`, while they load it. */
  checkLoaded(name: string): void {
    this.check(name);
    if (this.#get(name).status === null)
      throw new NotReadyError(
        `checkpoint ${name} is not loaded yet by the ranks that have joined: try again`,
      );
  }

  /** `hasRanks`: whether there are ranks to hold it; otherwise only its headers are read. Rejects as `Cluster.register`, and with `AccessError`. */
  async register(wanted: Registration, hasRanks: () => boolean): Promise<CheckpointView> {
    await this.#shared.sweep();
    const registration = { ...wanted, source: await this.#resolve(wanted.source) };
    const { name } = wanted;
    const owned = pathsOf(registration.source).filter((path) => this.#shared.owns(path));
    // From here on to where it is noted nothing is waited for: of two that come at once the second one sees the first.
    this.#checkRoom(name);
    this.#checkPublisher(name, owned);
    const arriving = { name, owned };
    this.#arriving.add(arriving);
    this.#shared.keep(owned);
    let before: Kept | undefined;
    let kept: Kept;
    try {
      const examined = hasRanks() ? null : await this.#examine(registration, owned);
      // The first instance may have joined meanwhile, and loads what is kept by now.
      kept = examined === null || hasRanks() ? await this.#load(registration, owned) : examined;
      before = this.#kept.get(name);
      this.#kept.set(name, kept);
    } catch (error) {
      this.#arriving.delete(arriving);
      const used = this.#usedFiles();
      await this.#shared.release(owned.filter((path) => !used.has(path)));
      throw error;
    }
    this.#arriving.delete(arriving);
    this.#note();
    await this.#giveBack((before?.owned ?? []).filter((path) => !owned.includes(path)));
    if (this.#hasEnded(kept)) {
      void this.dropEnded();
      throw new CheckpointError(`checkpoint ${name}: ${endedWithTrainer}`);
    }
    this.#tell(kept);
    return viewOf(kept);
  }

  /** Rejects with `NotFoundError`, and as `Cluster.unregister`. */
  async unregister(name: string): Promise<void> {
    const kept = this.#get(name);
    if (kept.status !== null) await this.#keeper.use((cluster) => cluster.unregister(name));
    this.#kept.delete(name);
    this.#note();
    await this.#giveBack(kept.owned);
    this.#events.tell({ type: 'checkpoint', checkpoint: name, state: 'unregistered' });
  }

  /** Unregisters what was in the memory of devices, and has ended with its trainer. Never rejects. */
  async dropEnded(): Promise<void> {
    await Promise.all(
      [...this.#kept.values()].filter((kept) => this.#hasEnded(kept)).map((kept) => this.#drop(kept)),
    );
  }

  /** Nobody begins to read it from here on; who reads it now fails as soon as its files are gone. */
  async #drop(kept: Kept): Promise<void> {
    const { name } = kept.registration;
    kept.problem = endedWithTrainer;
    await this.#shared.remove(kept.owned);
    const end = performance.now() + deadlines.load;
    while (this.#kept.get(name) === kept && performance.now() < end) {
      try {
        await this.unregister(name);
      } catch (error) {
        if (!mayPass(error) || this.#keeper.state === 'stopping') return;
        await new Promise((wake) => setTimeout(wake, busyMilliseconds));
      }
    }
  }

  #hasEnded({ owned }: Kept): boolean {
    return owned.some((path) => isOnDevice(path) && !this.#shared.isInSession(path));
  }

  /** The content of a metas file. Rejects with `NotFoundError`, and as `Cluster.metas`. */
  async metas(name: string): Promise<string> {
    this.check(name);
    if (this.#get(name).status === null)
      throw new UsageError(
        `checkpoint ${name} is in no memory yet: it is loaded when the first instance is added`,
      );
    return this.#keeper.use((cluster) => cluster.metas(name));
  }

  /** Unregisters those that are temporary, but for these and those that are being installed. Never rejects. */
  async dropTemporary(except: readonly string[]): Promise<void> {
    const temporary = [...this.#kept.values()].filter(({ registration }) => registration.temporary);
    for (const { registration } of temporary)
      if (!except.includes(registration.name)) await this.unregister(registration.name).catch(() => {});
  }

  /** Loads what no rank holds, now that there are ranks. A checkpoint that fails keeps its problem. */
  async loadWaiting(cluster: Cluster): Promise<void> {
    for (const kept of this.#kept.values()) if (kept.status === null) await this.#loadAgain(kept, cluster);
  }

  /** The ranks that held them are gone. */
  released(): void {
    for (const kept of this.#kept.values()) kept.status = null;
  }

  /** Notes the progress of a rank that loads. */
  progress(progress: Progress): void {
    const sum = this.#loaded.add(progress);
    if (performance.now() - this.#toldAt < progressMilliseconds) return;
    this.#toldAt = performance.now();
    this.#events.tell({ type: 'progress', checkpoint: this.#loading, activity: 'load', ...sum });
  }

  #note(): void {
    const lasting = [...this.#kept.values()].filter(({ owned }) => !owned.some(isOnDevice));
    const noted = lasting.map(({ registration: { name, version }, digest, owned }) => {
      return { name, digest, ...(version !== undefined && { version }), owned };
    });
    this.#shared.note(noted);
  }

  /** Files that were replaced or unregistered: their client may write them again if it is sure that no rank reads them. */
  async #giveBack(paths: readonly string[]): Promise<void> {
    const used = this.#usedFiles();
    const unused = paths.filter((path) => !used.has(path));
    if (!unused.some((path) => this.#shared.isInSession(path))) return this.#shared.remove(unused);
    const isFree = await this.#keeper.use((cluster) => cluster.released()).catch(() => false);
    if (isFree) await this.#shared.release(unused);
    else await this.#shared.remove(unused);
  }

  async #resolve(source: Registration['source']): Promise<Registration['source']> {
    if (typeof source === 'string') return this.#roots.resolve(source);
    if ('metas' in source) return { metas: await this.#roots.file(source.metas) };
    return Promise.all(source.map((path) => this.#roots.resolve(path)));
  }

  #usedFiles(): ReadonlySet<string> {
    return new Set([...this.#kept.values(), ...this.#arriving].flatMap(({ owned }) => owned));
  }

  #checkRoom(name: string): void {
    const names = new Set([...this.#kept.keys(), ...[...this.#arriving].map((one) => one.name)]);
    if (names.size >= mostCheckpoints && !names.has(name))
      throw new OverloadedError(`the daemon keeps ${mostCheckpoints} checkpoints already; unregister some`);
  }

  /** Of two publishers with one name each would update engines to what the other one has published last. */
  #checkPublisher(name: string, owned: readonly string[]): void {
    const now = this.#shared.openSessionOf(owned);
    const arriving = [...this.#arriving].filter((one) => one.name === name);
    const others = [this.#kept.get(name), ...arriving].flatMap((one) => one?.owned ?? []);
    if (now === null || others.every((path) => [null, now].includes(this.#shared.openSessionOf([path]))))
      return;
    throw new UsageError(
      `checkpoint ${name} is published by another trainer, which is connected: end that one, or publish by another name (checkpoint of weightcast.connect)`,
    );
  }

  async #load(registration: Registration, owned: readonly string[]): Promise<Kept> {
    const { name } = registration;
    const status = await this.#keeper.use((cluster) => this.#registerIn(cluster, registration));
    const { tensors, bytes, digest } = status;
    if (status.checkpoint !== name) throw new UsageError(`${name} was registered as ${status.checkpoint}`);
    return { registration, owned, tensors, bytes, digest, status, problem: null };
  }

  async #examine(registration: Registration, owned: readonly string[]): Promise<Kept> {
    const { source } = registration;
    const { names, bytes } = await (typeof source === 'object' && 'metas' in source
      ? manifestOf(source.metas)
      : openCheckpoint(source, this.#opened));
    const total = bytes.reduce((sum, one) => sum + one, 0);
    const { digest = null } = registration;
    const facts = { tensors: names.length, bytes: total, digest, status: null, problem: null };
    return { registration, owned, ...facts };
  }

  async #registerIn(cluster: Cluster, { name, source, hosts }: Registration): Promise<CheckpointStatus> {
    const before = this.#loading;
    this.#loading = name;
    this.#loaded = new ProgressSum();
    // Until then all ranks have said how much they load.
    this.#toldAt = performance.now();
    try {
      return await cluster.register(name, source, hosts === undefined ? {} : { hosts });
    } catch (error) {
      // Refused, because another one is loading.
      if (error instanceof BusyError) this.#loading = before;
      throw error;
    } finally {
      if (this.#loading === name) this.#loading = null;
    }
  }

  async #loadAgain(kept: Kept, cluster: Cluster): Promise<void> {
    const { name } = kept.registration;
    try {
      const status = await this.#untilIdle(kept, () => this.#registerIn(cluster, kept.registration));
      if (status === null) return;
      const current = this.#kept.get(name);
      if (current !== kept) return await this.#replaceLoaded(name, current, cluster);
      if (kept.digest !== null && kept.digest !== status.digest) {
        await cluster.unregister(name);
        throw new CheckpointError(`its files hold ${status.digest} now, and held ${kept.digest}`);
      }
      Object.assign(kept, { status, digest: status.digest, problem: null });
      this.#note();
    } catch (error) {
      kept.problem = describe(error);
    }
    this.#tell(kept);
  }

  /** What was just loaded by this name has been replaced meanwhile by `current`, or removed. */
  async #replaceLoaded(name: string, current: Kept | undefined, cluster: Cluster): Promise<void> {
    if (current === undefined) return void (await cluster.unregister(name));
    if (current.status === null) await this.#loadAgain(current, cluster);
  }

  /** Waits while others load, and while the supervisor is replaced. Resolves with null if nothing is left to do: it was loaded, replaced or removed meanwhile. */
  async #untilIdle<T>(kept: Kept, work: () => Promise<T>): Promise<T | null> {
    const end = performance.now() + deadlines.load;
    for (;;) {
      if (kept.status !== null || this.#kept.get(kept.registration.name) !== kept) return null;
      try {
        return await work();
      } catch (error) {
        if (!mayPass(error) || performance.now() > end) throw error;
        await new Promise((wake) => setTimeout(wake, busyMilliseconds));
      }
    }
  }

  #tell(kept: Kept): void {
    const { name, ...view } = viewOf(kept);
    this.#events.tell({ type: 'checkpoint', checkpoint: name, ...view });
  }

  #get(name: string): Kept {
    const kept = this.#kept.get(name);
    if (kept === undefined) throw new NotFoundError(`the daemon has no checkpoint ${name}`);
    return kept;
  }
}
