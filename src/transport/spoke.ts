import { Dealer } from 'zeromq';
import type { Envelope, PeerEvent, Transport } from '../actors/kernel/transport.ts';
import {
  asFailure,
  describe,
  PeerLostError,
  ProtocolError,
  UsageError,
  type WeightcastError,
} from '../errors.ts';
import type { Clock, Logger } from '../ports.ts';
import { within } from '../within.ts';
import { newCounters, type TransportCounters } from './counters.ts';
import { curveClientOptions, type SpokeKeys } from './curve.ts';
import { DepartedNodes } from './departed-nodes.ts';
import {
  controlFrame,
  type Frame,
  foreignVersion,
  parseFrame,
  parsePayload,
  protocolVersion,
} from './frames.ts';
import { completeLimits, type TransportLimits } from './limits.ts';
import { guarded, type Listener } from './listener.ts';
import { checkNodeName, isNodeName } from './node-name.ts';
import { type Ending, Session } from './session.ts';
import { closeLingering, socketOptions, transmit } from './wire.ts';

/** Between attempts at the first hello: until there is a connection, and then until there is an answer. */
const firstHelloMilliseconds = 10;
const repeatHelloMilliseconds = 500;
const reconnectMilliseconds = 100;
const longestReconnectMilliseconds = 1_000;

export interface SpokeOptions {
  /** This process, named by `nodeName`. */
  readonly node: string;
  /** The hub's. */
  readonly endpoint: string;
  readonly keys: SpokeKeys;
  readonly clock: Clock;
  readonly log: Logger;
  /** How long to wait for the hub's welcome. */
  readonly deadlineMilliseconds: number;
  /** Ends that wait; `connect` rejects with its reason. */
  readonly signal?: AbortSignal;
  /** Best the same as the hub's: each side acknowledges by its own window. */
  readonly limits?: Partial<TransportLimits>;
}

/**
 * A process connected to the hub, which is the only peer it reaches. When the hub is lost it looks for a new one at
 * the same endpoint until it is closed: a hub that restarts has a new name and is a new peer. Call `listen` soon
 * after `connect`: until then this process counts as silent.
 */
export class SpokeTransport implements Transport {
  readonly node: string;
  readonly counters: TransportCounters = newCounters();
  readonly #endpoint: string;
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #limits: TransportLimits;
  readonly #socket: Dealer;
  readonly #departed = new DepartedNodes();
  /** The session with the current hub. */
  #session: Session | null = null;
  #listener: Listener | null = null;
  #startDelivery: () => void = () => {};
  readonly #deliveryStarted: Promise<void>;
  #settleWelcome: ((failure: WeightcastError | null) => void) | null = null;
  #cancelTimer: () => void = () => {};
  #closed: Promise<void> | null = null;

  /**
   * Resolves when the hub has welcomed this node. Rejects with `PeerLostError` when it does not within the deadline
   * or refuses, `ProtocolError` when it speaks another version, `UsageError` for a wrong option.
   */
  static async connect(options: SpokeOptions): Promise<SpokeTransport> {
    const transport = new SpokeTransport(options);
    try {
      await transport.#join(options.deadlineMilliseconds, options.signal);
      return transport;
    } catch (error) {
      await transport.close(0);
      throw error;
    }
  }

  private constructor(options: SpokeOptions) {
    checkNodeName(options.node);
    this.node = options.node;
    this.#endpoint = options.endpoint;
    this.#clock = options.clock;
    this.#log = options.log;
    this.#limits = completeLimits(options.limits);
    this.#deliveryStarted = new Promise((resolve) => {
      this.#startDelivery = resolve;
    });
    this.#socket = new Dealer({
      ...socketOptions(this.#limits),
      routingId: options.node,
      // Nothing is queued without a connection, so no message for one hub reaches the next.
      immediate: true,
      reconnectInterval: reconnectMilliseconds,
      reconnectMaxInterval: longestReconnectMilliseconds,
      ...curveClientOptions(options.keys),
    });
    try {
      this.#socket.connect(options.endpoint);
    } catch (error) {
      this.#socket.close();
      throw new UsageError(`cannot connect to ${options.endpoint}: ${describe(error)}`, { cause: error });
    }
  }

  /** The current hub's node name; null while not connected. */
  get hub(): string | null {
    return this.#session?.peer ?? null;
  }

  send(node: string, envelope: Envelope): void {
    if (this.#closed !== null || this.#session?.peer !== node) {
      throw new PeerLostError(`${node} is not connected to ${this.node}, whose hub is at ${this.#endpoint}`);
    }
    this.#session.send(envelope);
  }

  /** The first event reports the hub that welcomed this node as up. */
  listen(onEnvelope: (from: string, envelope: Envelope) => void, onPeer: (event: PeerEvent) => void): void {
    if (this.#listener !== null) throw new UsageError(`${this.node} listens already`);
    this.#listener = guarded({ onEnvelope, onPeer }, this.#log);
    this.#startDelivery();
  }

  close(deadlineMilliseconds: number): Promise<void> {
    this.#closed ??= this.#close(this.#clock.now() + deadlineMilliseconds);
    return this.#closed;
  }

  async #close(deadline: number): Promise<void> {
    this.#startDelivery();
    if (this.#session !== null) {
      await within(this.#clock, deadline - this.#clock.now(), this.#session.finish('it was closed'));
    }
    this.#cancelTimer();
    this.#session?.end();
    this.#session = null;
    closeLingering(this.#socket, deadline - this.#clock.now());
  }

  async #join(deadlineMilliseconds: number, signal?: AbortSignal): Promise<void> {
    const onAbort = () => this.#settleWelcome?.(asFailure(signal!.reason));
    const welcomed = new Promise<void>((resolve, reject) => {
      this.#settleWelcome = (failure) => (failure === null ? resolve() : reject(failure));
    });
    signal?.addEventListener('abort', onAbort);
    if (signal?.aborted) onAbort();
    void this.#receive();
    void this.#firstHello();
    try {
      if (await within(this.#clock, deadlineMilliseconds, welcomed)) return;
      throw new PeerLostError(
        `no hub at ${this.#endpoint} welcomed ${this.node} within ${deadlineMilliseconds} ms: ` +
          'it is not running, or has different keys',
      );
    } finally {
      signal?.removeEventListener('abort', onAbort);
      this.#settleWelcome = null;
      this.#cancelTimer();
    }
  }

  async #firstHello(): Promise<void> {
    const isTaken = await this.#transmit(controlFrame('hello', 0, 0, {}));
    if (this.#settleWelcome === null) return;
    this.#cancelTimer = this.#clock.after(isTaken ? repeatHelloMilliseconds : firstHelloMilliseconds, () => {
      void this.#firstHello();
    });
  }

  async #receive(): Promise<void> {
    try {
      for await (const [bytes, ...others] of this.#socket) {
        if (bytes !== undefined && others.length === 0) this.#acceptBytes(bytes);
        else this.#dropMalformed('not one frame');
        if (this.#session !== null && this.#listener === null) await this.#deliveryStart(this.#session.peer);
      }
    } catch (error) {
      if (this.#socket.closed) return;
      this.#log.error({ error }, `${this.node} can no longer receive: ${describe(error)}`);
      this.#endSession({ kind: 'lost', reason: `${this.node} can no longer receive` });
    }
  }

  /** Messages of the first hub wait in ZeroMQ until there is a listener. */
  async #deliveryStart(hub: string): Promise<void> {
    await this.#deliveryStarted;
    if (this.#closed === null)
      this.#listener?.onPeer({ node: hub, state: 'up', reason: 'welcomed this node' });
    // Also while closing: a hub that vanished meanwhile does not answer the bye.
    if (this.#closed === null || this.#session !== null) this.#schedulePing();
  }

  #acceptBytes(bytes: Uint8Array): void {
    const version = foreignVersion(bytes);
    if (version !== null) {
      this.#acceptForeignVersion(version);
      return;
    }
    try {
      this.#acceptFrame(parseFrame(bytes));
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.#dropMalformed(error.message);
    }
  }

  #acceptFrame(frame: Frame): void {
    if (frame.kind === 'welcome') this.#acceptWelcome(frame);
    else if (frame.kind === 'refusal') this.#acceptRefusal(frame);
    else if (this.#session?.id !== frame.session) this.counters.stray += 1;
    else {
      const ending = this.#session.accept(frame);
      if (ending !== null) this.#endSession(ending);
    }
  }

  #acceptWelcome(frame: Frame): void {
    const { node } = parsePayload('welcome', frame);
    if (!isNodeName(node)) throw new ProtocolError(`a welcome from "${node}", which is not a node name`);
    if (this.#session !== null || this.#closed !== null || this.#departed.has(node)) {
      this.counters.stray += 1;
      return;
    }
    this.#session = new Session({
      peer: node,
      id: frame.session,
      limits: this.#limits,
      counters: this.counters,
      log: this.#log,
      transmit: (bytes) => this.#transmit(bytes),
      deliver: (envelope) => this.#listener?.onEnvelope(node, envelope),
    });
    this.#settleWelcome?.(null);
    this.#log.debug({ node }, `${node} is up`);
    this.#listener?.onPeer({ node, state: 'up', reason: 'welcomed this node' });
  }

  #acceptRefusal(frame: Frame): void {
    const { node, reason } = parsePayload('refusal', frame);
    if (this.#settleWelcome !== null) {
      this.#settleWelcome(new PeerLostError(`the hub at ${this.#endpoint} refused ${this.node}: ${reason}`));
    } else if (this.#session === null || this.#session.id !== frame.session) {
      this.counters.stray += 1;
    } else if (this.#session.peer === node) {
      this.#endSession({ kind: 'lost', reason });
    } else {
      this.#endSession({ kind: 'lost', reason: `${node} has taken its place` });
      this.#sendHello();
    }
  }

  #acceptForeignVersion(version: number): void {
    this.counters.malformed += 1;
    const error = new ProtocolError(
      `the hub at ${this.#endpoint} speaks protocol version ${version}, ${this.node} ${protocolVersion}`,
    );
    if (this.#settleWelcome !== null) this.#settleWelcome(error);
    else this.#log.error({ error }, error.message);
  }

  #endSession(ending: Ending): void {
    const session = this.#session;
    if (session === null) return;
    this.#session = null;
    this.#departed.add(session.peer);
    session.part(ending);
    this.#log.info({ node: session.peer, reason: ending.reason }, `${session.peer} is down`);
    const isFarewell = ending.kind === 'bye';
    this.#listener?.onPeer({ node: session.peer, state: 'down', reason: ending.reason, isFarewell });
  }

  #schedulePing(): void {
    this.#cancelTimer();
    this.#cancelTimer = this.#clock.after(this.#limits.pingEveryMilliseconds, () => {
      this.#schedulePing();
      const ending = this.#session?.ping() ?? null;
      if (ending !== null) this.#endSession(ending);
      if (this.#session === null) this.#sendHello();
    });
  }

  /** Looks for a hub; without an answer, or after a refusal, it is sent again with the next ping. */
  #sendHello(): void {
    void this.#transmit(controlFrame('hello', 0, 0, {}));
  }

  #dropMalformed(reason: string): void {
    this.counters.malformed += 1;
    this.#log.warn({ node: this.node }, `dropped a message: ${reason}`);
  }

  #transmit(frame: Uint8Array): Promise<boolean> {
    return transmit(this.#socket, [frame], this.#log);
  }
}
