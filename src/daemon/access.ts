import { readdir, realpath, stat } from 'node:fs/promises';
import { BlockList, isIP } from 'node:net';
import { isAbsolute, join, normalize, sep } from 'node:path';
import { INDEX, listFiles } from '../checkpoint/file-list.ts';
import { escapeControls } from '../checkpoint/printable.ts';
import { AccessError, CheckpointError, UsageError } from '../errors.ts';

/** The directories whose files may be registered. */
export class FileRoots {
  readonly #roots: readonly string[];

  private constructor(roots: readonly string[]) {
    this.#roots = roots;
  }

  /** Rejects with `UsageError` for a root that is not an existing directory. */
  static async open(roots: readonly string[]): Promise<FileRoots> {
    const resolved = roots.map(async (root) => {
      const path = await realpath(root).catch(() => null);
      if (path === null || !(await stat(path)).isDirectory())
        throw new UsageError(`root ${escapeControls(root)} is not a directory`);
      return path;
    });
    return new FileRoots(await Promise.all(resolved));
  }

  /**
   * Where a checkpoint really lies, every symbolic link resolved. Rejects with `AccessError` if it, or one of its files,
   * is outside the roots; what is outside is not said to exist or not. Rejects with `CheckpointError`.
   */
  async resolve(path: string): Promise<string> {
    const resolved = await this.#inside(path);
    const directory = (await stat(resolved)).isDirectory();
    if (directory && (await readdir(resolved)).includes(INDEX)) await this.#inside(join(resolved, INDEX));
    for (const file of await listFiles(resolved)) {
      const real = await this.#inside(file.path);
      // A FIFO would block a thread, a device has no end.
      if (!(await stat(real)).isFile())
        throw new CheckpointError(`${escapeControls(file.path)} is not a regular file`);
    }
    return resolved;
  }

  /** The same for one file that is not a checkpoint's. */
  async file(path: string): Promise<string> {
    const resolved = await this.#inside(path);
    if (!(await stat(resolved)).isFile())
      throw new UsageError(`${escapeControls(path)} is not a regular file`);
    return resolved;
  }

  async #inside(path: string): Promise<string> {
    if (!isAbsolute(path) || path.includes('\0'))
      throw new UsageError(`${escapeControls(path)} is not an absolute path`);
    const resolved = await realpath(path).catch(() => null);
    if (!this.#covers(resolved ?? normalize(path)))
      throw new AccessError(`${escapeControls(path)} is outside the daemon's roots (serve --root)`);
    if (resolved === null) throw new CheckpointError(`${escapeControls(path)} does not exist`);
    return resolved;
  }

  #covers(path: string): boolean {
    return this.#roots.some(
      (root) => path === root || path.startsWith(root.endsWith(sep) ? root : root + sep),
    );
  }
}

/** The engines that the daemon may call: nobody makes it call anything else. */
export class EngineList {
  readonly #networks = new BlockList();
  /** Origins, `host`, `host:port` and `unix:/path`, as they are compared. */
  readonly #names = new Set<string>(['localhost']);

  /** Loopback addresses are always in it. Throws `UsageError` for an entry that is none. */
  constructor(entries: readonly string[]) {
    this.#networks.addSubnet('127.0.0.0', 8, 'ipv4');
    this.#networks.addAddress('::1', 'ipv6');
    for (const entry of entries) this.#add(entry);
  }

  /** Throws `AccessError`. An endpoint that is no URL is not in the list either. */
  check(endpoint: string): void {
    if (!this.#allows(endpoint))
      throw new AccessError(`engine ${shown(endpoint)} is not on the daemon's list (serve --allow-engine)`);
  }

  #allows(endpoint: string): boolean {
    if (endpoint.startsWith('unix:')) return this.#names.has(`unix:${normalize(endpoint.slice(5))}`);
    if (!URL.canParse(endpoint)) return false;
    const { origin, hostname, port, protocol } = new URL(endpoint);
    if (protocol !== 'http:' && protocol !== 'https:') return false;
    const host = hostname.replace(/^\[|\]$/g, '');
    const family = isIP(host);
    if (family !== 0 && this.#networks.check(host, family === 4 ? 'ipv4' : 'ipv6')) return true;
    const actual = port === '' ? (protocol === 'https:' ? '443' : '80') : port;
    return [origin, hostname, `${hostname}:${actual}`].some((name) => this.#names.has(name));
  }

  #add(entry: string): void {
    const [, network, bits] = /^([0-9a-fA-F.:]+)\/(\d{1,3})$/.exec(entry) ?? [];
    if (network !== undefined) {
      const family = isIP(network);
      if (family === 0 || Number(bits) > (family === 4 ? 32 : 128)) throw refused(entry);
      this.#networks.addSubnet(network, Number(bits), family === 4 ? 'ipv4' : 'ipv6');
    } else if (entry.startsWith('unix:/')) this.#names.add(`unix:${normalize(entry.slice(5))}`);
    else if (/^https?:\/\//.test(entry) && URL.canParse(entry)) this.#names.add(new URL(entry).origin);
    else if (URL.canParse(`http://${entry}`) && new URL(`http://${entry}`).pathname === '/') {
      // The port is kept as it is written: a URL drops its scheme's own.
      const port = /:(\d+)$/.exec(entry.replace(/^\[.*\]/, ''))?.[1];
      const { hostname } = new URL(`http://${entry}`);
      this.#names.add(port === undefined ? hostname : `${hostname}:${port}`);
    } else throw refused(entry);
  }
}

function refused(entry: string): UsageError {
  return new UsageError(
    `--allow-engine is "${escapeControls(entry)}"; give a host, host:port, URL, network such as 10.0.0.0/8, or unix:/path`,
  );
}

/** Without a user and password, which may be in a URL. */
function shown(endpoint: string): string {
  return escapeControls(endpoint.replace(/\/\/[^/@]*@/, '//'));
}
