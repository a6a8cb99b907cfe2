import { once } from 'node:events';
import { createServer, request, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { systemClock } from '../../src/native-bridge/clock.ts';
import type { Span } from './spans.ts';

/** Passes requests on to an engine, and notes from when to when it was paused. */
export class WatchedEndpoint {
  readonly #server: Server;
  /** In order. */
  readonly pauses: Span[] = [];
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

  /** Of each pause, in order. */
  get pauseSeconds(): number[] {
    return this.pauses.map(([from, to]) => Math.round(to - from) / 1_000);
  }

  close(): void {
    this.#server.close();
    this.#server.closeAllConnections();
  }

  #note(path: string): void {
    if (path === '/pause') {
      this.#pausedAt = systemClock.now();
    } else if (path === '/resume' && this.#pausedAt !== undefined) {
      this.pauses.push([this.#pausedAt, systemClock.now()]);
      this.#pausedAt = undefined;
    }
  }
}
