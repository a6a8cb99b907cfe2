import { once } from 'node:events';
import { createServer, request, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { systemClock } from '../../src/native-bridge/clock.ts';
import type { Span } from './spans.ts';

/** A pause of an engine, and when its workers were asked for something while it lasted. */
export interface WatchedPause {
  readonly span: Span;
  /** From the question until its answer. */
  readonly calls: readonly Span[];
}

/** Passes requests on to an engine, and notes from when to when it was paused. */
export class WatchedEndpoint {
  readonly #server: Server;
  /** In order. */
  readonly pauses: WatchedPause[] = [];
  #pausedAt: number | undefined;
  #calls: Span[] = [];

  private constructor(engine: string) {
    this.#server = createServer((incoming, outgoing) => {
      const { method, headers, url = '/' } = incoming;
      const askedAt = systemClock.now();
      const passed = request(`${engine}${url}`, { method, headers }, (answer) => {
        if (answer.statusCode === 200 && method === 'POST')
          this.#note(new URL(url, engine).pathname, [askedAt, systemClock.now()]);
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
    return this.pauses.map(({ span: [from, to] }) => Math.round(to - from) / 1_000);
  }

  close(): void {
    this.#server.close();
    this.#server.closeAllConnections();
  }

  #note(path: string, answered: Span): void {
    const at = answered[1];
    if (path === '/pause') {
      this.#pausedAt = at;
      this.#calls = [];
    } else if (path === '/collective_rpc') {
      this.#calls.push(answered);
    } else if (path === '/resume' && this.#pausedAt !== undefined) {
      this.pauses.push({ span: [this.#pausedAt, at], calls: this.#calls });
      this.#pausedAt = undefined;
      this.#calls = [];
    }
  }
}
