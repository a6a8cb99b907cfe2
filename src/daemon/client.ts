import { lstatSync } from 'node:fs';
import { Agent, type Dispatcher } from 'undici';
import {
  describe,
  fromWire,
  NotReadyError,
  PeerLostError,
  ProtocolError,
  type WireError,
} from '../errors.ts';
import { apiHeader, apiVersion } from './api-version.ts';
import { fromWireNames, toWireNames } from './wire-names.ts';

/** Where a daemon serves: a socket's path, or `http://host:port` with a token. */
export type DaemonAddress =
  | { readonly socket: string }
  | { readonly url: string; readonly token: string | null };

/** Requests to a daemon. Names are those of TypeScript here, and those of the API on the wire. */
export class DaemonClient {
  readonly #address: DaemonAddress;
  readonly #agent: Agent;

  constructor(address: DaemonAddress) {
    this.#address = address;
    this.#agent = new Agent({
      // An update takes as long as it takes; the daemon has its deadline.
      headersTimeout: 0,
      bodyTimeout: 0,
      ...('socket' in address && { connect: { socketPath: address.socket } }),
    });
  }

  /** Rejects with the daemon's own error, and with `NotReadyError` if there is no daemon. */
  async call(method: 'GET' | 'POST' | 'DELETE', path: string, body?: object): Promise<unknown> {
    const response = await this.#request(method, path, body);
    const text = await response.body.text();
    let answer: unknown;
    try {
      answer = JSON.parse(text);
    } catch {
      throw new ProtocolError(`${this.#where} answered ${response.statusCode} without JSON; is it a daemon?`);
    }
    if (response.statusCode < 400) return fromWireNames(answer);
    const { error } = answer as { error?: WireError };
    if (error === undefined) throw new ProtocolError(`${this.#where} answered ${response.statusCode}`);
    throw fromWire(error);
  }

  /** The events of one update, or of all, until the last one or the end of the connection. */
  async *events(update?: string): AsyncGenerator<Readonly<Record<string, unknown>>> {
    const path = update === undefined ? '/v1/events' : `/v1/updates/${encodeURIComponent(update)}/events`;
    const { body, statusCode } = await this.#request('GET', path);
    if (statusCode !== 200) throw fromWire(((await body.json()) as { error: WireError }).error);
    let text = '';
    body.setEncoding('utf8');
    for await (const chunk of this.#unbroken(body as AsyncIterable<string>)) {
      const parts = (text + chunk).split('\n\n');
      text = parts.pop()!;
      for (const part of parts) {
        const data = /^data: (.*)$/m.exec(part)?.[1];
        if (data !== undefined) yield fromWireNames(JSON.parse(data)) as Record<string, unknown>;
      }
    }
  }

  async *#unbroken(body: AsyncIterable<string>): AsyncGenerator<string> {
    try {
      yield* body;
    } catch (error) {
      throw new PeerLostError(`the daemon at ${this.#where} has ended: ${describe(error)}`);
    }
  }

  async close(): Promise<void> {
    await this.#agent.destroy();
  }

  get #where(): string {
    return 'socket' in this.#address ? this.#address.socket : this.#address.url;
  }

  async #request(method: 'GET' | 'POST' | 'DELETE', path: string, body?: object) {
    const token = 'token' in this.#address ? this.#address.token : null;
    const request: Dispatcher.RequestOptions = {
      origin: 'socket' in this.#address ? 'http://localhost' : new URL(this.#address.url).origin,
      method,
      path,
      headers: {
        [apiHeader]: String(apiVersion),
        ...(token !== null && { authorization: `Bearer ${token}` }),
        ...(body !== undefined && { 'content-type': 'application/json' }),
      },
    };
    if (body !== undefined) request.body = JSON.stringify(toWireNames(body));
    try {
      return await this.#agent.request(request);
    } catch (error) {
      throw new NotReadyError(`no daemon answers at ${this.#where} (weightcast serve): ${describe(error)}`);
    }
  }
}

/** Whether something is at this path that a daemon of this user or of root has made. */
export function isSocketOfUser(path: string): boolean {
  const found = lstatSync(path, { throwIfNoEntry: false });
  return found?.isSocket() === true && (found.uid === process.getuid!() || found.uid === 0);
}
