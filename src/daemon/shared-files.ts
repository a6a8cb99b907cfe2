import { randomBytes } from 'node:crypto';
import { readdir, stat, unlink, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { describe } from '../errors.ts';
import { SharedDirectory } from '../native-bridge/memory.ts';
import type { Logger } from '../ports.ts';
import { isRunning } from '../processes/is-running.ts';
import { leftRecord } from '../processes/sweep.ts';
import { adoptVersions, dropNote, keepUntil, type LeftVersion, noteVersions } from './left-versions.ts';

/** A client that has not written to a file for so long, nor registered it, is gone, unless its process is seen from here. */
const abandonedMilliseconds = 600_000;

/** How often a living daemon says so. */
const noteMilliseconds = 30_000;

/**
 * A directory in shared memory into which clients write tensors, as safetensors files, to be registered without a copy.
 * Its files are the daemon's: it removes them once they are not registered any more. The directory goes with the daemon;
 * what a SIGKILL leaves, the next start of any cluster or daemon sweeps.
 */
export class SharedFiles {
  readonly #directory = new SharedDirectory(`/dev/shm/weightcast-${randomBytes(6).toString('hex')}`);
  /** Paths that are registered, or just being registered. */
  readonly #kept = new Set<string>();
  /** Clients that are there, and write their files again. */
  readonly #sessions = new Set<string>();

  readonly #log: Logger | null;
  readonly #socket: string | null;
  readonly #keepMilliseconds: number;
  /** Whether there is something for the next daemon. */
  #isNoted = false;
  readonly #onExit = () => this.close();
  readonly #noting = setInterval(() => this.#keep(), noteMilliseconds).unref();
  readonly #sweeping = setInterval(() => void this.sweep(), abandonedMilliseconds / 2).unref();

  /** `keep`: if this process is killed, complete versions stay for so long, for the next daemon on the socket. */
  constructor(
    keep: { readonly socket: string; readonly seconds: number } | null = null,
    log: Logger | null = null,
  ) {
    this.#log = log;
    this.#socket = keep?.socket ?? null;
    this.#keepMilliseconds = (keep?.seconds ?? 0) * 1_000;
    process.on('exit', this.#onExit);
  }

  /** What a daemon that was killed has left: names, versions and paths. */
  adopt(): (Pick<LeftVersion, 'name' | 'digest'> & {
    readonly version?: string;
    readonly source: readonly string[];
  })[] {
    if (this.#socket === null) return [];
    return adoptVersions(this.#socket, this.path).map(({ name, version, digest, files }) => {
      const source = files.map((file) => join(this.path, file));
      return { name, digest, ...(version !== undefined && { version }), source };
    });
  }

  /** These are complete; their files are the daemon's. */
  note(versions: readonly (Omit<LeftVersion, 'files'> & { readonly owned: readonly string[] })[]): void {
    if (this.#socket === null || this.#keepMilliseconds === 0) return;
    const own = versions.filter(({ owned }) => owned.length > 0);
    this.#isNoted = own.length > 0;
    if (!this.#isNoted) return dropNote(this.path);
    const left = own.map(({ name, version, digest, owned }) => {
      const files = owned.map((path) => basename(path));
      return { name, digest, ...(version !== undefined && { version }), files };
    });
    try {
      noteVersions(this.path, this.#socket, left, Date.now() + this.#keepMilliseconds);
    } catch (error) {
      // An old note would name what is no more.
      this.#isNoted = false;
      dropNote(this.path);
      this.#log?.error({}, `another daemon would not find what is registered here: ${describe(error)}`);
    }
  }

  get path(): string {
    return this.#directory.path;
  }

  owns(path: string): boolean {
    return dirname(path) === this.path;
  }

  keep(paths: readonly string[]): void {
    for (const path of paths) this.#kept.add(path);
  }

  /** Its files are called `session-ID-…`. */
  openSession(): string {
    const id = randomBytes(6).toString('hex');
    this.#sessions.add(id);
    return id;
  }

  /** Removes its files but those that are registered, which go when they are not any more. */
  async closeSession(id: string): Promise<void> {
    this.#sessions.delete(id);
    const names = await readdir(this.path).catch(() => []);
    const files = names.filter((name) => sessionOf(name) === id).map((name) => join(this.path, name));
    await this.remove(files.filter((path) => !this.#kept.has(path)));
  }

  /** Whether a client that is there writes it again. */
  isInSession(path: string): boolean {
    return this.owns(path) && this.#sessions.has(sessionOf(basename(path)) ?? '');
  }

  /** The session of a client that is there, to which any of these belongs; null if there is none. */
  openSessionOf(paths: readonly string[]): string | null {
    const mine = paths.find((path) => this.isInSession(path));
    return mine === undefined ? null : sessionOf(basename(mine));
  }

  /** They are not registered any more, and nobody reads them: a session may write its own again. */
  async release(paths: readonly string[]): Promise<void> {
    for (const path of paths) this.#kept.delete(path);
    await this.remove(paths.filter((path) => !this.isInSession(path)));
  }

  /** A new file of the daemon's own, for its user only. */
  async write(name: string, text: string): Promise<string> {
    const path = join(this.path, `${process.pid}-${randomBytes(6).toString('hex')}-${name}`);
    await writeFile(path, text, { mode: 0o600, flag: 'wx' });
    return path;
  }

  async remove(paths: readonly string[]): Promise<void> {
    for (const path of paths) {
      this.#kept.delete(path);
      await unlink(path).catch(() => {});
    }
  }

  /** Removes what clients have left that died before they registered it. */
  async sweep(now = Date.now()): Promise<void> {
    const names = await readdir(this.path).catch(() => []);
    for (const name of names) {
      const path = join(this.path, name);
      if (name === 'lock' || name === leftRecord || this.#kept.has(path) || this.isInSession(path)) continue;
      if (isOfLivingProcess(name)) continue;
      const found = await stat(path).catch(() => null);
      if (found !== null && now - found.mtimeMs > abandonedMilliseconds) await this.remove([path]);
    }
  }

  #keep(): void {
    if (this.#isNoted) keepUntil(this.path, Date.now() + this.#keepMilliseconds);
  }

  /** May be called twice. */
  close(): void {
    clearInterval(this.#sweeping);
    clearInterval(this.#noting);
    process.off('exit', this.#onExit);
    this.#directory.close();
  }
}

/** Outside sessions a client's files are called `PID-…`. It may register one long after it was written. */
function isOfLivingProcess(name: string): boolean {
  const pid = /^([1-9][0-9]*)-/.exec(name)?.[1];
  return pid !== undefined && isRunning(Number(pid));
}

/** The session that a file belongs to, by its name. */
function sessionOf(name: string): string | null {
  return /^session-([0-9a-f]+)-/.exec(name)?.[1] ?? null;
}
