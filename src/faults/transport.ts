import { setTimeout as sleep } from 'node:timers/promises';
import type { Envelope, Transport } from '../actors/kernel/index.ts';
import type { Faults } from './faults.ts';
import { answerPoint } from './points.ts';

/** The same transport, with a fault point at every message that arrives, which has the name of its type. */
export function withMessageFaults(transport: Transport, faults: Faults | null): Transport {
  if (faults === null) return transport;
  const answers = new Map<number, string>();
  return {
    node: transport.node,
    close: (deadline) => transport.close(deadline),
    send: (node, envelope) => {
      if (envelope.kind === 'ask') answers.set(envelope.id, answerPoint(typeOf(envelope.body)));
      transport.send(node, envelope);
    },
    listen: (onEnvelope, onPeer) => {
      const inbox = new Inbox(onEnvelope);
      transport.listen((from, envelope) => {
        const point = pointOf(envelope, answers);
        const order = point === null ? null : strike(faults, point);
        switch (order?.action) {
          case 'drop':
            return;
          case 'delay':
            inbox.delay(from, order.milliseconds);
            break;
          case 'duplicate':
            inbox.put(from, envelope);
            break;
          case 'corrupt':
            inbox.put(from, corrupted(envelope));
            return;
        }
        inbox.put(from, envelope);
      }, onPeer);
    },
  };
}

/** An exception here is one of the process: transports survive those of whoever listens to them. */
function strike(faults: Faults, point: string) {
  try {
    return faults.strike(point);
  } catch (error) {
    process.nextTick(() => {
      throw error;
    });
    return null;
  }
}

/** Delivers in the order of arrival, also behind a message that is late. */
class Inbox {
  readonly #deliver: (from: string, envelope: Envelope) => void;
  /** By sender: when what has arrived of it is delivered. */
  readonly #late = new Map<string, Promise<void>>();

  constructor(deliver: (from: string, envelope: Envelope) => void) {
    this.#deliver = deliver;
  }

  delay(from: string, milliseconds: number): void {
    this.#after(from, () => sleep(milliseconds));
  }

  put(from: string, envelope: Envelope): void {
    if (this.#late.has(from)) this.#after(from, () => this.#deliver(from, envelope));
    else this.#deliver(from, envelope);
  }

  #after(from: string, next: () => void | Promise<void>): void {
    const until = (this.#late.get(from) ?? Promise.resolve()).then(next).finally(() => {
      if (this.#late.get(from) === until) this.#late.delete(from);
    });
    this.#late.set(from, until);
  }
}

function pointOf(envelope: Envelope, answers: Map<number, string>): string | null {
  switch (envelope.kind) {
    case 'tell':
    case 'ask':
      return typeOf(envelope.body);
    case 'reply':
    case 'failure': {
      const point = answers.get(envelope.id) ?? null;
      answers.delete(envelope.id);
      return point;
    }
    default:
      return null;
  }
}

function typeOf(body: unknown): string {
  return String((body as { readonly type?: unknown } | null)?.type);
}

/** Without what its receiver has to find in it. */
function corrupted(envelope: Envelope): Envelope {
  switch (envelope.kind) {
    case 'tell':
    case 'ask':
      return { ...envelope, body: { type: typeOf(envelope.body) } };
    case 'reply':
      return { ...envelope, body: 'corrupted on purpose' };
    default:
      return envelope;
  }
}
