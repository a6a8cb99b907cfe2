import type { ServerResponse } from 'node:http';
import { OverloadedError } from '../errors.ts';
import type { SharedFiles } from './shared-files.ts';

/** They have connections that stay (connection-limit.ts): others find room beside them, and beside streams of events. */
const mostSessions = 256;
/** Comments, so that both sides see that the other one is alive. */
const aliveMilliseconds = 15_000;

/**
 * Clients that write the same files in shared memory again and again: each holds a connection open for as long as it lives,
 * so that what it has not registered goes with it, however it ends.
 */
export class Sessions {
  readonly #shared: SharedFiles;
  readonly #onEnd: (session: string) => void;
  readonly #open = new Set<ServerResponse>();

  /** `onEnd`: is told the session of a client that is gone. */
  constructor(shared: SharedFiles, onEnd: (session: string) => void) {
    this.#shared = shared;
    this.#onEnd = onEnd;
  }

  /** Answers with one event, and then with nothing until the client goes or the daemon ends. Throws `OverloadedError`. */
  serve(response: ServerResponse): void {
    if (this.#open.size >= mostSessions)
      throw new OverloadedError(`the daemon has ${mostSessions} sessions already`);
    this.#open.add(response);
    const id = this.#shared.openSession();
    const data = JSON.stringify({ session: id, shared_directory: this.#shared.path });
    response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' });
    response.write(`event: session\ndata: ${data}\n\n`);
    const alive = setInterval(() => response.write(': alive\n\n'), aliveMilliseconds);
    response.once('close', () => {
      clearInterval(alive);
      this.#open.delete(response);
      this.#onEnd(id);
    });
  }

  close(): void {
    for (const response of this.#open) response.end();
  }
}
