import { WeightcastError } from '../../errors.ts';
import { type Context, replyLater } from '../kernel/index.ts';
import type { RankInbox } from './inbox.ts';
import { Leases } from './leases.ts';
import { Loading } from './loading.ts';
import type { RankPorts } from './ports.ts';

const types = [
  'examine',
  'load',
  'release',
  'lease',
  'expose',
  'sweep',
  'return-lease',
  'write-document',
] as const;
type MemoryMessage = Extract<RankInbox, { type: (typeof types)[number] }>;

/** What a rank is asked of its host's memory, besides updates. The mailbox waits for returned leases only. */
export class HostMemory {
  readonly loading: Loading;
  readonly leases: Leases;
  readonly #ports: RankPorts;

  constructor(ports: RankPorts) {
    this.#ports = ports;
    this.loading = new Loading(ports.segments);
    this.leases = new Leases(ports.segments, () => ports.fabric(null));
  }

  static isAbout(message: RankInbox): message is MemoryMessage {
    return (types as readonly string[]).includes(message.type);
  }

  receive(message: MemoryMessage, context: Context<RankInbox>): void | Promise<void> {
    switch (message.type) {
      case 'examine':
        return replyLater(context.deferReply(message), this.loading.examine(message.files));
      case 'load':
        return this.#startLoad(message, context);
      case 'release':
        return replyLater(context.deferReply(message), this.#release(message.segments));
      case 'lease':
        return replyLater(context.deferReply(message), this.leases.lease(message.epoch, message.segments));
      case 'expose':
        return replyLater(context.deferReply(message), this.leases.expose(message.segments));
      case 'sweep':
        return void this.leases.sweep(message);
      case 'return-lease':
        return this.leases.returnLease(message.epoch);
      case 'write-document':
        return replyLater(context.deferReply(message), this.#writeDocument(message));
    }
  }

  #startLoad(message: Extract<MemoryMessage, { type: 'load' }>, context: Context<RankInbox>): void {
    const { order } = message;
    if (order.segment !== null && this.leases.isLeased(order.segment)) {
      const why = `rank ${this.#ports.rank} cannot overwrite ${order.segment}: another host has a lease on it`;
      context.fail(new WeightcastError(why));
      return;
    }
    this.loading.start(order, context.deferReply(message), context);
  }

  async #release(segments: readonly string[]): Promise<Record<string, never>> {
    await this.leases.release(segments);
    return {};
  }

  async #writeDocument({ document, offset, piece }: Extract<MemoryMessage, { type: 'write-document' }>) {
    this.#ports.documents.write(document, offset, piece);
    return {};
  }
}
