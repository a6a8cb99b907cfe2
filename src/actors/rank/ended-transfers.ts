import { WeightcastError } from '../../errors.ts';
import { noRates, type UpdateRates } from '../../plan/parts-choice.ts';
import type { ArrivedDigests } from '../protocol/update-values.ts';
import type { RankTransfer } from './transfer.ts';

/** What a rank remembers of its transfers when they have ended, well or not. */
export class EndedTransfers {
  readonly #rank: number;
  #last: { readonly epoch: number; readonly loads: number; readonly arrived: ArrivedDigests | null } = {
    epoch: 0,
    loads: 0,
    arrived: null,
  };
  #loadedEpoch = 0;
  #rates: UpdateRates = noRates;

  constructor(rank: number) {
    this.#rank = rank;
  }

  note({ epoch, loads, plan, arrivedDigests, isAlone, rates }: RankTransfer): void {
    // Of whole tensors all was said.
    this.#last = { epoch, loads, arrived: plan.cuts === null ? null : arrivedDigests };
    if (loads > 0) this.#loadedEpoch = epoch;
    if (isAlone) return;
    const { upload, broadcast, tensor } = this.#rates;
    this.#rates = {
      upload: rates.upload ?? upload,
      broadcast: rates.broadcast ?? broadcast,
      tensor: rates.tensor ?? tensor,
    };
  }

  /** The last epoch in which its worker loaded something; 0 if there is none. */
  get loadedEpoch(): number {
    return this.#loadedEpoch;
  }

  loadsOf(epoch: number): number {
    return this.#last.epoch === epoch ? this.#last.loads : 0;
  }

  /** Throws `WeightcastError` if it was not the last epoch, or not answered by a digest. */
  async arrivedDigests({ epoch }: { readonly epoch: number }): Promise<ArrivedDigests> {
    const { epoch: last, arrived } = this.#last;
    if (epoch === last && arrived !== null) return arrived;
    throw new WeightcastError(`rank ${this.#rank} no longer knows what arrived in epoch ${epoch}`);
  }

  /** Each of the last transfer in which enough was moved. */
  get rates(): UpdateRates {
    return this.#rates;
  }
}
