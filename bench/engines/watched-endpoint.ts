import { once } from 'node:events';
import { createServer, request, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';

/** Passes requests on to an engine, and notes from when to when it was paused. */
export class WatchedEndpoint {
  readonly #server: Server;
  /** Of each pause, in order. */
  readonly pauseSeconds: number[] = [];
  #pausedAt: number | undefined;

  private constructor(engine: string) {
    this.#server = createServer((incoming, outgoing) => {
      const { method, headers, url = '/' } = incoming;
      const passed = request(`${engine}${url}`, { method, headers }, (answer) => {
        if (answer.statusCode === 200 && method === 'POST') this.#note(new URL(url, engine).pathname);
        outgoing.writeHead(answer.statusCode!, answer.headers);
        answer.pipe(outgoing);
      });
      passed.on('error', () => outgoing.destroy());
      incoming.pipe(passed);
    });
  }

  static async before(engine: string): Promise<WatchedEndpoint> {
    const watched = new WatchedEndpoint(engine);
    watched.#server.listen(0, '127.0.0.1');
    await once(watched.#server, 'listening');
    return watched;
  }

  get endpoint(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  close(): void {
    this.#server.close();
    this.#server.closeAllConnections();
  }

  #note(path: string): void {
    if (path === '/pause') {
      this.#pausedAt = performance.now();
    } else if (path === '/resume' && this.#pausedAt !== undefined) {
      this.pauseSeconds.push(Math.round(performance.now() - this.#pausedAt) / 1_000);
      this.#pausedAt = undefined;
    }
  }
}
