import type { Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { OverloadedError } from '../errors.ts';
import { answerRaw } from './raw-answers.ts';

/** Clients at once of one server. More are a mistake, or an attack. */
const mostConnections = 512;
/** Beyond those, while they are told so. */
const mostRefused = 64;

/**
 * Whoever asks gets in, however many others are connected and ask nothing: when there are too many connections, a new one
 * takes the place of the one that has been without work for the longest time, of the peer that has most of these.
 */
export class ConnectionLimit {
  readonly #most: number;
  readonly #connections = new WeakMap<Socket, Connections>();

  constructor(most = mostConnections) {
    this.#most = most;
  }

  /** Bounds the connections of a server, apart from those of others. */
  watch(server: Server): void {
    const all = new Connections();
    server.maxConnections = this.#most + mostRefused;
    server.on('connection', (socket: Socket) => {
      if (all.size >= this.#most && !all.dropIdle()) {
        const error = new OverloadedError(`${this.#most} requests are under way; try again`);
        return answerRaw(socket, 429, 'Too Many Requests', error);
      }
      this.#connections.set(socket, all);
      all.add(socket);
    });
  }

  /** All of a request has arrived, and its sender may ask: until it is answered its connection has work. */
  works(socket: Socket, response: ServerResponse): void {
    this.#connections.get(socket)?.work(socket, response);
  }
}

class Connections {
  readonly #open = new Set<Socket>();
  /** Those without work, the longest first. */
  readonly #idle = new Set<Socket>();

  get size(): number {
    return this.#open.size;
  }

  add(socket: Socket): void {
    this.#open.add(socket);
    this.#idle.add(socket);
    socket.once('close', () => this.#forget(socket));
  }

  work(socket: Socket, response: ServerResponse): void {
    this.#idle.delete(socket);
    response.once('close', () => {
      if (this.#open.has(socket)) this.#idle.add(socket);
    });
  }

  /** Whether there was one. */
  dropIdle(): boolean {
    const counts = new Map<string | undefined, number>();
    for (const { remoteAddress } of this.#idle)
      counts.set(remoteAddress, (counts.get(remoteAddress) ?? 0) + 1);
    const most = Math.max(...counts.values());
    const first = [...this.#idle].find(({ remoteAddress }) => counts.get(remoteAddress) === most);
    if (first === undefined) return false;
    this.#forget(first);
    first.destroy();
    return true;
  }

  #forget(socket: Socket): void {
    this.#open.delete(socket);
    this.#idle.delete(socket);
  }
}
