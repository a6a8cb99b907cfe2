import { randomBytes } from 'node:crypto';
import { readdir, stat, unlink } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { SharedDirectory } from '../native-bridge/memory.ts';

/** A client that has not written to a file for so long, nor registered it, is gone. */
const abandonedMilliseconds = 600_000;

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

  readonly #onExit = () => this.close();
  readonly #sweeping = setInterval(() => void this.sweep(), abandonedMilliseconds / 2).unref();

  constructor() {
    process.on('exit', this.#onExit);
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

  /** They are not registered any more, and nobody reads them: a session may write its own again. */
  async release(paths: readonly string[]): Promise<void> {
    for (const path of paths) this.#kept.delete(path);
    await this.remove(paths.filter((path) => !this.isInSession(path)));
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
      if (name === 'lock' || this.#kept.has(path) || this.isInSession(path)) continue;
      const found = await stat(path).catch(() => null);
      if (found !== null && now - found.mtimeMs > abandonedMilliseconds) await this.remove([path]);
    }
  }

  /** May be called twice. */
  close(): void {
    clearInterval(this.#sweeping);
    process.off('exit', this.#onExit);
    this.#directory.close();
  }
}

/** The session that a file belongs to, by its name. */
function sessionOf(name: string): string | null {
  return /^session-([0-9a-f]+)-/.exec(name)?.[1] ?? null;
}
