import { createHash } from 'node:crypto';
import { chmodSync, existsSync, lstatSync, mkdirSync, realpathSync, unlinkSync } from 'node:fs';
import { createConnection, createServer, type Server } from 'node:net';
import { basename, dirname, join } from 'node:path';
import { describe, UsageError } from '../errors.ts';

/** Linux allows no longer path for a socket. */
const longestPath = 107;
const answerMilliseconds = 2_000;
/** A holder that is just ending neither answers nor lets go for a moment. */
const attempts = 20;
const pauseMilliseconds = 50;

/**
 * The right to serve on a socket, which one process has at a time: a name in Linux's abstract namespace, which the kernel
 * takes back however the process ends. Who asks there is told who holds it.
 */
export class SocketLock {
  readonly path: string;
  readonly #server: Server;

  private constructor(path: string, server: Server) {
    this.path = path;
    this.#server = server;
  }

  /** Removes the socket of a daemon that is dead. Rejects with `UsageError` that says who holds it if one is alive. */
  static async take(socket: string): Promise<SocketLock> {
    if (Buffer.byteLength(socket) > longestPath)
      throw new UsageError(`--socket ${socket}: a socket's path has at most ${longestPath} bytes`);
    const path = join(openDirectory(dirname(socket)), basename(socket));
    const server = await claim(path);
    try {
      await removeStale(path);
    } catch (error) {
      server.close();
      throw error;
    }
    return new SocketLock(path, server);
  }

  release(): void {
    this.#server.close();
  }
}

/** Made, if it is missing, for this user alone. In /tmp, where everybody may make one, it has to be this user's. */
function openDirectory(directory: string): string {
  try {
    if (!existsSync(directory)) mkdirSync(directory, { mode: 0o700 });
    const found = lstatSync(directory);
    if (dirname(directory) === '/tmp') {
      if (!found.isDirectory() || found.uid !== process.getuid!())
        throw new UsageError(`${directory} is not this user's directory; give another --socket`);
      chmodSync(directory, 0o700);
    }
    return realpathSync(directory);
  } catch (error) {
    if (error instanceof UsageError) throw error;
    throw new UsageError(`the directory ${directory} of the socket cannot be used: ${describe(error)}`);
  }
}

async function claim(path: string): Promise<Server> {
  const digest = createHash('sha256').update(`${process.getuid!()} ${path}`).digest('hex').slice(0, 32);
  const name = `\0weightcast-daemon-${digest}`;
  const holder = `pid ${process.pid}, since ${new Date().toISOString()}`;
  for (let attempt = 0; attempt < attempts; attempt += 1) {
    const server = createServer((connection) => connection.on('error', () => {}).end(holder));
    const code = await listens(server, name);
    if (code === null) return server.unref();
    if (code !== 'EADDRINUSE') throw new UsageError(`the lock of ${path} cannot be taken: ${code}`);
    const answer = await answerOf(name);
    if (answer !== null) throw held(path, answer);
    await new Promise((resolve) => setTimeout(resolve, pauseMilliseconds));
  }
  throw held(path, 'a process that does not answer');
}

function held(path: string, holder: string): UsageError {
  return new UsageError(
    `another daemon serves on ${path}: ${holder}; stop it (weightcast stop), or give another --socket`,
  );
}

async function removeStale(path: string): Promise<void> {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (found === undefined) return;
  if (!found.isSocket()) throw new UsageError(`${path} exists and is no socket; give another --socket`);
  // One in another network namespace has a lock of its own.
  if (await accepts(path)) throw held(path, 'a process of another network namespace');
  unlinkSync(path);
}

/** Null once it listens, else the code of the error. */
function listens(server: Server, name: string): Promise<string | null> {
  return new Promise((resolve) => {
    server.once('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message));
    server.listen(name, () => resolve(null));
  });
}

function accepts(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const connection = createConnection(path, () => {
      connection.destroy();
      resolve(true);
    });
    connection.once('error', () => resolve(false));
  });
}

/** What the holder says, one short line; null if it is gone. */
function answerOf(name: string): Promise<string | null> {
  return new Promise((resolve) => {
    let text = '';
    const connection = createConnection(name);
    const timer = setTimeout(() => connection.destroy(), answerMilliseconds);
    connection.setEncoding('latin1');
    connection.on('data', (data) => {
      text = (text + data).slice(0, 200);
    });
    connection.on('error', () => {});
    connection.once('close', () => {
      clearTimeout(timer);
      resolve(/^[\x20-\x7e]+$/.test(text) ? text : null);
    });
  });
}
