import type { ServerResponse } from 'node:http';
import { OverloadedError } from '../errors.ts';
import type { EventHub, Listener } from './event-hub.ts';
import { toWireNames } from './wire-names.ts';

const mostStreams = 64;
/** A client that reads slower than this piles up is let go; it may ask for the status and come again. */
const mostWaitingBytes = 1 << 20;
/** Comments, so that a client and what is between see that the connection is alive. */
const aliveMilliseconds = 15_000;

type Told = Parameters<Listener>[0];

/** Streams of server-sent events to clients. */
export class EventStreams {
  readonly #hub: EventHub;
  readonly #open = new Set<ServerResponse>();

  constructor(hub: EventHub) {
    this.#hub = hub;
  }

  /**
   * Answers with events until the client goes or the daemon ends; with those of one update, until that has ended. `first`:
   * the event that has ended it already. Throws `OverloadedError`.
   */
  serve(
    response: ServerResponse,
    { update = null, first = null }: { readonly update?: string | null; readonly first?: object | null } = {},
  ): void {
    if (this.#open.size >= mostStreams && !this.#dropUnread())
      throw new OverloadedError(`the daemon has ${mostStreams} streams of events already`);
    response.writeHead(200, {
      'content-type': 'text/event-stream',
      'cache-control': 'no-store',
      'x-accel-buffering': 'no',
    });
    response.write(': weightcast\n\n');
    if (first !== null) {
      response.end(`event: update\ndata: ${JSON.stringify(first)}\n\n`);
      return;
    }
    this.#open.add(response);
    const end = this.#hub.listen((event) => {
      if (update !== null && event.update !== update) return;
      response.write(textOf(event));
      if (response.writableLength > mostWaitingBytes) response.destroy();
      else if (update !== null && event.type === 'update' && event.state !== 'running') response.end();
    });
    const alive = setInterval(() => {
      // What was written then has not been read since.
      if (response.writableLength > 0) response.destroy();
      else response.write(': alive\n\n');
    }, aliveMilliseconds);
    response.once('close', () => {
      clearInterval(alive);
      end();
      this.#open.delete(response);
    });
  }

  /** Lets go of a client that does not read. Whether there was one. */
  #dropUnread(): boolean {
    const unread = [...this.#open].find(({ writableLength }) => writableLength > 0);
    if (unread !== undefined) this.#open.delete(unread);
    unread?.destroy();
    return unread !== undefined;
  }

  close(): void {
    for (const response of this.#open) response.end();
  }
}

function textOf({ id, ...event }: Told): string {
  return `id: ${id}\nevent: ${event.type}\ndata: ${JSON.stringify(toWireNames(event))}\n\n`;
}
