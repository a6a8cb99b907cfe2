import { asFailure, PeerLostError } from '../../errors.ts';
import type { ServedSlice } from '../../plan/reception.ts';
import { ask } from '../protocol/ask.ts';
import type { ForeignSource } from '../protocol/checkpoint-values.ts';
import { deadlines } from '../protocol/deadlines.ts';
import type { FabricSource } from '../protocol/join-values.ts';
import type { Planned } from '../protocol/plan-values.ts';
import { toRank } from '../protocol/rank.ts';
import type { ReadyRank } from '../protocol/supervisor.ts';
import { toSwarm } from '../protocol/swarm.ts';
import type { Opened } from '../protocol/update-values.ts';
import type { UpdateContext } from '../update/context.ts';

/** What a rank serves, or did before it was gone. */
interface Served {
  readonly rank: number;
  readonly host: string;
  readonly slices: readonly ServedSlice[];
}

/**
 * The ranks that an update reads from: it takes leases on what they hold, tells the swarm of them, and finds another
 * rank of the same host when one is gone. An update that reads nothing has no sources.
 */
export class Sources {
  readonly #scope: UpdateContext;
  /** The epochs that leases were taken for. */
  #epochs: number[] = [];
  readonly #served = new Map<number, Served>();
  /** What nobody serves, until another rank of its host does. */
  #orphans: Served[] = [];
  /** Ranks that were told to receive in the last epoch. */
  #receivers: readonly FabricSource[] = [];

  constructor(scope: UpdateContext) {
    this.#scope = scope;
  }

  /** Of the checkpoint, for all updates to it at a time. */
  get swarm(): string {
    const { layout, status } = this.#scope.spec.checkpoint;
    return `${layout}/${status.digest}`;
  }

  /** Takes leases on all that groups will read. Rejects when there is nobody left to read from. */
  async lend(epoch: number, planned: readonly Planned[]): Promise<void> {
    const { reception } = planned.find((group) => group.reception !== null) ?? { reception: null };
    if (reception === null) return;
    const { context, spec } = this.#scope;
    const question = { swarm: this.swarm, epoch, sliceBytes: reception.sliceBytes };
    await ask(context, spec.swarm, toSwarm.openSwarm, question, this.#scope.within(deadlines.control));
    this.#epochs.push(epoch);
    const memberOf = new Map(spec.readyRanks().map((member) => [member.rank, member]));
    const lent = await Promise.allSettled(
      reception.served.map(async ({ rank, host, slices }) => {
        const foreign = spec.checkpoint.foreign?.sources.find((source) => source.rank === rank);
        if (foreign !== undefined) return this.#announceForeign(foreign, slices);
        const member = memberOf.get(rank);
        if (member !== undefined) return this.#lendFrom(member, slices, epoch);
        // It was there when the planner was asked.
        this.#served.set(rank, { rank, host, slices });
        this.lost(rank, 'it is gone', true);
      }),
    );
    const failed = lent.filter((outcome) => outcome.status === 'rejected');
    for (const { reason } of failed) {
      context.log.warn({ epoch, error: asFailure(reason).message }, 'a source lends nothing');
    }
    if (failed.length === lent.length)
      throw failed[0]?.reason ?? new PeerLostError('there is nobody to read from');
  }

  /** What ranks are about to receive they will serve on. */
  async announce(answers: readonly Opened[]): Promise<void> {
    const { context, spec } = this.#scope;
    const receiving = answers.flatMap((answer) =>
      answer.outcome === 'open' ? (answer.receiving ?? []) : [],
    );
    this.#receivers = receiving;
    await Promise.all(
      receiving.map((source) => {
        const question = { swarm: this.swarm, source, isComplete: false };
        return ask(context, spec.swarm, toSwarm.addSource, question, this.#scope.within(deadlines.control));
      }),
    );
  }

  /** `returns`: it is started anew. */
  lost(rank: number, reason: string, returns: boolean): void {
    const { context, spec } = this.#scope;
    if (this.#epochs.length === 0) return;
    const lost = this.#served.get(rank);
    this.#served.delete(rank);
    const heir = spec.readyRanks().find((member) => member.host === lost?.host && member.rank !== rank);
    // One that served nothing comes back with nothing.
    const isMissed = lost !== undefined || this.#orphans.some((orphan) => orphan.rank === rank);
    const isAwaited = (returns && isMissed) || heir !== undefined;
    context.tell(spec.swarm, {
      type: 'remove-source',
      swarm: this.swarm,
      rank,
      reason,
      returns: isAwaited,
    });
    if (lost !== undefined) this.#orphans.push(lost);
    if (heir !== undefined) this.#adopt(heir);
  }

  ready(rank: number): void {
    const member = this.#scope.spec.readyRanks().find((candidate) => candidate.rank === rank);
    if (member !== undefined) this.#adopt(member);
  }

  /** The update is over. Unless they keep what they received, its ranks can be read from no more. */
  release(isKept: boolean): void {
    const { context, spec } = this.#scope;
    for (const { rank, slices } of isKept ? [] : this.#receivers) {
      const { swarm } = this;
      // One that died has not left by itself.
      context.tell(spec.swarm, { type: 'leave-swarm', swarm, rank });
      context.tell(spec.swarm, {
        type: 'reduce-source',
        swarm,
        rank,
        slices: slices.map(({ slice }) => slice),
      });
    }
    for (const epoch of this.#epochs) {
      for (const { ref } of spec.readyRanks()) context.tell(ref, { type: 'return-lease', epoch });
      context.tell(spec.swarm, { type: 'close-swarm', swarm: this.swarm, epoch });
    }
    // Who adopts from here on would lend for ever.
    this.#epochs = [];
    this.#served.clear();
    this.#orphans = [];
  }

  /** A rank serves what others of its host served who are gone. */
  #adopt(member: ReadyRank): void {
    const epoch = this.#epochs.at(-1);
    const inherited = this.#orphans.filter(({ host }) => host === member.host);
    if (epoch === undefined || inherited.length === 0) return;
    this.#orphans = this.#orphans.filter(({ host }) => host !== member.host);
    const slices = [...new Set(inherited.flatMap((orphan) => orphan.slices))];
    this.#lendFrom(member, slices, epoch).catch((error) => {
      this.#scope.context.log.warn(
        { rank: member.rank, error: asFailure(error).message },
        'a source lends nothing',
      );
      this.#orphans.push({ rank: member.rank, host: member.host, slices });
    });
  }

  async #lendFrom(
    { rank, ref, host }: ReadyRank,
    slices: readonly ServedSlice[],
    epoch: number,
  ): Promise<void> {
    const { context } = this.#scope;
    const known = this.#served.get(rank)?.slices ?? [];
    this.#served.set(rank, { rank, host, slices: [...known, ...slices] });
    const question = { epoch, segments: [...new Set(slices.map(({ path }) => path))] };
    const { address, exposed } = await ask(
      context,
      ref,
      toRank.lease,
      question,
      this.#scope.within(deadlines.open),
    );
    await this.#announceComplete({ rank, address, secret: null }, exposed, slices);
  }

  /** A rank of another cluster lends nothing: its segments can be read as long as it holds them. */
  #announceForeign(
    { rank, address, segments }: ForeignSource,
    slices: readonly ServedSlice[],
  ): Promise<void> {
    const secret = this.#scope.spec.checkpoint.foreign?.secret ?? null;
    return this.#announceComplete({ rank, address, secret }, segments, slices);
  }

  async #announceComplete(
    who: Pick<FabricSource, 'rank' | 'address' | 'secret'>,
    exposed: readonly { readonly path: string; readonly token: Uint8Array }[],
    slices: readonly ServedSlice[],
  ): Promise<void> {
    const { context, spec } = this.#scope;
    const tokenOf = new Map(exposed.map(({ path, token }) => [path, token]));
    const source = {
      ...who,
      slices: slices.flatMap(({ slice, path, offset }) => {
        const token = tokenOf.get(path);
        return token === undefined ? [] : [{ slice, token, offset }];
      }),
    };
    const announcement = { swarm: this.swarm, source, isComplete: true };
    await ask(context, spec.swarm, toSwarm.addSource, announcement, this.#scope.within(deadlines.control));
  }
}
