import { randomInt } from 'node:crypto';
import { Router } from 'zeromq';
import type { Envelope, PeerEvent, Transport } from '../actors/kernel/transport.ts';
import { describe, PeerLostError, ProtocolError, UsageError } from '../errors.ts';
import type { Clock, Logger } from '../ports.ts';
import { within } from '../within.ts';
import { newCounters, type TransportCounters } from './counters.ts';
import { curveServerOptions, type HubKeys, memberKeys } from './curve.ts';
import { DepartedNodes } from './departed-nodes.ts';
import { controlFrame, type Frame, foreignVersion, parseFrame, protocolVersion } from './frames.ts';
import { completeLimits, type TransportLimits } from './limits.ts';
import { guarded, type Listener } from './listener.ts';
import { checkNodeName, isNodeName } from './node-name.ts';
import { type Ending, Session } from './session.ts';
import { closeLingering, socketOptions, transmit } from './wire.ts';
import { admit } from './zap.ts';

export interface HubOptions {
  /** This process, named by `nodeName`. */
  readonly node: string;
  /** Where spokes connect; `tcp://127.0.0.1:*`, a free port of this host, unless given. */
  readonly endpoint?: string;
  /** Where spokes on other hosts connect, `tcp://10.0.0.1:*` for example; nowhere unless given. */
  readonly remoteEndpoint?: string | undefined;
  readonly keys: HubKeys;
  /** A node that is never lost for being silent, only with its connection: it may be busy, or stopped in a debugger. */
  readonly patientWith?: string;
  readonly clock: Clock;
  readonly log: Logger;
  readonly limits?: Partial<TransportLimits>;
}

/**
 * The center of the star: spokes connect to it, and it reaches all of them. It admits no spoke before `listen`.
 * A spoke that is lost or said bye is down for good: its name never comes back. A process that was only slow gets
 * a refusal and may connect again under a new name.
 */
export class HubTransport implements Transport {
  readonly node: string;
  /** The bound address, with the port that was free. */
  readonly endpoint: string;
  /** The bound address for spokes on other hosts; null without `remoteEndpoint`. */
  readonly remoteEndpoint: string | null = null;
  readonly counters: TransportCounters = newCounters();
  readonly #patientWith: string | null;
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #limits: TransportLimits;
  readonly #socket: Router;
  readonly #withdraw: () => void;
  readonly #sessions = new Map<string, Session>();
  readonly #departed = new DepartedNodes();
  #listener: Listener | null = null;
  #cancelPing: () => void = () => {};
  #closed: Promise<void> | null = null;

  /** Throws `UsageError` when the endpoint cannot be bound, or an option is wrong. */
  static async bind(options: HubOptions): Promise<HubTransport> {
    checkNodeName(options.node);
    const limits = completeLimits(options.limits);
    const endpoint = options.endpoint ?? 'tcp://127.0.0.1:*';
    const domain = `weightcast-${randomInt(2 ** 47)}`;
    const security = curveServerOptions(options.keys, domain);
    const withdraw = await admit(domain, memberKeys(options.keys), options.clock, options.log);
    const socket = new Router({
      ...socketOptions(limits),
      mandatory: true,
      handover: true,
      ...security,
    });
    const { remoteEndpoint } = options;
    const bound: string[] = [];
    for (const wanted of remoteEndpoint === undefined ? [endpoint] : [endpoint, remoteEndpoint]) {
      try {
        await socket.bind(wanted);
      } catch (error) {
        socket.close();
        withdraw();
        throw new UsageError(`cannot listen on ${wanted}: ${describe(error)}`, { cause: error });
      }
      bound.push(socket.lastEndpoint!);
    }
    return new HubTransport(options, limits, socket, bound, withdraw);
  }

  private constructor(
    options: HubOptions,
    limits: TransportLimits,
    socket: Router,
    [endpoint, remoteEndpoint]: readonly string[],
    withdraw: () => void,
  ) {
    this.node = options.node;
    this.endpoint = endpoint!;
    if (remoteEndpoint !== undefined) this.remoteEndpoint = remoteEndpoint;
    this.#patientWith = options.patientWith ?? null;
    this.#clock = options.clock;
    this.#log = options.log;
    this.#limits = limits;
    this.#socket = socket;
    this.#withdraw = withdraw;
  }

  isConnected(node: string): boolean {
    return this.#sessions.has(node);
  }

  send(node: string, envelope: Envelope): void {
    const session = this.#closed === null ? this.#sessions.get(node) : undefined;
    if (session === undefined) throw new PeerLostError(`${node} is not connected to ${this.node}`);
    session.send(envelope);
  }

  listen(onEnvelope: (from: string, envelope: Envelope) => void, onPeer: (event: PeerEvent) => void): void {
    if (this.#listener !== null) throw new UsageError(`${this.node} listens already`);
    this.#listener = guarded({ onEnvelope, onPeer }, this.#log);
    void this.#receive();
    this.#schedulePing();
  }

  /**
   * Ends a node's session at once, for a supervisor that saw its process exit. The name is refused from now on,
   * whether it was connected or not; if the process still lives, it gets notified.
   */
  declareLost(node: string, reason: string): void {
    const session = this.#sessions.get(node);
    if (session === undefined) this.#departed.add(node);
    else this.#endSession(session, { kind: 'lost', reason });
  }

  close(deadlineMilliseconds: number): Promise<void> {
    this.#closed ??= this.#close(this.#clock.now() + deadlineMilliseconds);
    return this.#closed;
  }

  async #close(deadline: number): Promise<void> {
    const finished = [...this.#sessions.values()].map((session) => session.finish('it was closed'));
    await within(this.#clock, deadline - this.#clock.now(), Promise.all(finished));
    this.#cancelPing();
    for (const session of this.#sessions.values()) session.end();
    this.#sessions.clear();
    closeLingering(this.#socket, deadline - this.#clock.now());
    this.#withdraw();
  }

  async #receive(): Promise<void> {
    try {
      for await (const [routingId, bytes, ...others] of this.#socket) {
        const node = routingId!.toString();
        if (bytes !== undefined && others.length === 0 && isNodeName(node)) this.#acceptBytes(node, bytes);
        else this.#dropMalformed(node, 'not one frame of a node');
      }
    } catch (error) {
      if (this.#socket.closed) return;
      this.#log.error({ error }, `${this.node} can no longer receive: ${describe(error)}`);
      for (const session of this.#sessions.values()) {
        this.#endSession(session, { kind: 'lost', reason: `${this.node} can no longer receive` });
      }
    }
  }

  #acceptBytes(node: string, bytes: Uint8Array): void {
    const version = foreignVersion(bytes);
    if (version !== null) {
      this.#refuseVersion(node, version);
      return;
    }
    let frame: Frame;
    try {
      frame = parseFrame(bytes);
    } catch (error) {
      this.#dropMalformed(node, describe(error));
      return;
    }
    if (frame.kind === 'hello') this.#admit(node);
    else this.#acceptFrame(node, frame);
  }

  #acceptFrame(node: string, frame: Frame): void {
    const session = this.#sessions.get(node);
    if (session?.id !== frame.session) {
      this.counters.stray += 1;
      if (frame.kind === 'alive') this.#refuse(node, frame.session, `${node} was given up by ${this.node}`);
      return;
    }
    const ending = session.accept(frame);
    if (ending !== null) this.#endSession(session, ending);
  }

  #admit(node: string): void {
    const known = this.#sessions.get(node);
    if (known !== undefined) {
      // Its connection broke before it received our welcome.
      this.#welcome(known);
      known.heard();
    } else if (this.#departed.has(node)) {
      this.#refuse(node, 0, `${node} was declared down and must reconnect under a new name`);
    } else if (this.#closed !== null) {
      this.#refuse(node, 0, `${this.node} is closing`);
    } else if (this.#sessions.size >= this.#limits.peers) {
      this.#log.warn({ node }, `refused ${node}: ${this.#limits.peers} nodes are connected, the maximum`);
      this.#refuse(node, 0, `${this.node} serves ${this.#limits.peers} nodes, the maximum`);
    } else {
      this.#openSession(node);
    }
  }

  #openSession(node: string): void {
    const session = new Session({
      peer: node,
      id: randomInt(1, 2 ** 32),
      limits: this.#limits,
      mayBeSilent: node === this.#patientWith,
      counters: this.counters,
      log: this.#log,
      transmit: (frame) => transmit(this.#socket, [node, frame], this.#log),
      deliver: (envelope) => this.#listener?.onEnvelope(node, envelope),
    });
    this.#sessions.set(node, session);
    this.#welcome(session);
    this.#log.debug({ node }, `${node} is up`);
    this.#listener?.onPeer({ node, state: 'up', reason: 'said hello' });
  }

  #endSession(session: Session, ending: Ending): void {
    const node = session.peer;
    this.#sessions.delete(node);
    this.#departed.add(node);
    session.part(ending);
    this.#log.info({ node, reason: ending.reason }, `${node} is down`);
    this.#listener?.onPeer({ node, state: 'down', reason: ending.reason });
  }

  #welcome(session: Session): void {
    this.#transmit(session.peer, controlFrame('welcome', session.id, 0, { node: this.node }));
  }

  #refuse(node: string, session: number, reason: string): void {
    this.#transmit(node, controlFrame('refusal', session, 0, { node: this.node, reason }));
  }

  #refuseVersion(node: string, version: number): void {
    this.counters.malformed += 1;
    const error = new ProtocolError(
      `${node} speaks protocol version ${version}, this hub ${protocolVersion}`,
    );
    this.#log.error({ error, node }, error.message);
    this.#refuse(node, 0, error.message);
  }

  #dropMalformed(node: string, reason: string): void {
    this.counters.malformed += 1;
    this.#log.warn({ node }, `dropped a message: ${reason}`);
  }

  /** Bypasses the session's queue: when it does not arrive, the other side asks again. */
  #transmit(node: string, frame: Uint8Array): void {
    void transmit(this.#socket, [node, frame], this.#log);
  }

  #schedulePing(): void {
    this.#cancelPing = this.#clock.after(this.#limits.pingEveryMilliseconds, () => {
      this.#schedulePing();
      for (const session of this.#sessions.values()) {
        const ending = session.ping();
        if (ending !== null) this.#endSession(session, ending);
      }
    });
  }
}
