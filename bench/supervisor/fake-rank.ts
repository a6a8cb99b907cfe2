import type { Actor, Context } from '../../src/actors/kernel/index.ts';
import { type RankMessage, toRank } from '../../src/actors/protocol/rank.ts';
import { anyOf } from '../../src/actors/protocol/table.ts';
import { decodeManifest } from '../../src/checkpoint/manifest.ts';
import { noRates } from '../../src/plan/parts-choice.ts';

const freeBytes = 40 * 2 ** 30;

export const fakeRankOptions = { accepts: anyOf(toRank) };

/** Answers a supervisor as a rank whose device, files and engine worker take no time. */
export class FakeRank implements Actor<RankMessage> {
  readonly #layouts = new Set<string>();
  readonly #plans = new Set<string>();

  receive(message: RankMessage, context: Context<RankMessage>): void {
    switch (message.type) {
      case 'examine':
        return context.reply(message, {
          files: message.files.map(({ known }) => ({ identity: known, problem: null })),
        });
      case 'load': {
        // No two tensors have the same, as with real weights.
        const { names } = decodeManifest(message.order.manifest);
        return context.reply(message, {
          digests: BigUint64Array.from(
            names,
            (_, row) => BigInt(message.order.rank * 1_000_003 + row) * 0x9e3779b97f4a7c15n,
          ),
        });
      }
      case 'prepare':
        return context.reply(message, {
          freeBytes,
          bucketBytes: 128 * 2 ** 20,
          layouts: [...this.#layouts],
          planDigests: [...this.#plans],
          kept: [],
          rates: noRates,
        });
      case 'create-communicator':
        return context.reply(message, { id: new Uint8Array(128), leastBucketBytes: 0 });
      case 'write-document':
        return context.reply(message, {});
      case 'open':
        this.#layouts.add(message.layout);
        this.#plans.add(message.planDigest);
        return context.reply(message, { outcome: 'open', linkAddress: 'ipc://fake', receiving: null });
      case 'stream':
        return context.reply(message, {
          startedAt: 1,
          endedAt: 2,
          timeline: null,
          arrived: 'as registered',
          serialFrom: null,
          seenBy: 'worker',
          live: [],
          learned: null,
          received: [],
          uploadedBytes: 0,
        });
      case 'abort':
        return context.reply(message, { loads: 0 });
      case 'connected':
      case 'release':
        return context.reply(message, {});
      case 'start-loading':
      case 'return-lease':
        return;
      default:
        throw new Error(`no ${message.type} is expected where nobody joins`);
    }
  }
}
