import { asFailure, PeerLostError } from '../../errors.ts';
import type { ServedSlice } from '../../plan/reception.ts';
import { ask } from '../protocol/ask.ts';
import type { ForeignSource } from '../protocol/checkpoint-values.ts';
import { deadlines, growing } from '../protocol/deadlines.ts';
import type { FabricSource } from '../protocol/join-values.ts';
import type { Planned } from '../protocol/plan-values.ts';
import { toRank } from '../protocol/rank.ts';
import type { ReadyRank } from '../protocol/supervisor.ts';
import { toSwarm } from '../protocol/swarm.ts';
import type { Opened } from '../protocol/update-values.ts';
import type { UpdateContext } from '../update/context.ts';

/** What a rank serves, or served until it died. */
interface Served {
  readonly rank: number;
  readonly host: string;
  readonly slices: readonly ServedSlice[];
}

/**
 * The ranks that an update reads from. Takes leases on their segments, announces them to the swarm, and has another rank
 * of the same host take over when one dies. An update that reads nothing has none.
 */
export class LeasedSources {
  readonly #scope: UpdateContext;
  /** Epochs that leases were taken for. */
  #epochs: number[] = [];
  readonly #served = new Map<number, Served>();
  /** Of dead ranks; waits for another rank of the same host. */
  #unserved: Served[] = [];
  /** Ranks that receive in the last epoch. */
  #receivers: readonly FabricSource[] = [];

  constructor(scope: UpdateContext) {
    this.#scope = scope;
  }

  /** One swarm for all updates that install the same checkpoint at the same time. */
  get swarm(): string {
    const { layout, status } = this.#scope.spec.checkpoint;
    return `${layout}/${status.digest}`;
  }

  /** Takes leases on everything that the groups read. Rejects when no source is left. */
  async lease(epoch: number, planned: readonly Planned[]): Promise<void> {
    const { reception } = planned.find((group) => group.reception !== null) ?? { reception: null };
    if (reception === null) return;
    const { context, spec } = this.#scope;
    const question = { swarm: this.swarm, epoch, sliceBytes: reception.sliceBytes };
    await ask(context, spec.swarm, toSwarm.openSwarm, question, this.#scope.within(deadlines.control));
    this.#epochs.push(epoch);
    const memberOf = new Map(spec.readyRanks().map((member) => [member.rank, member]));
    const leases = await Promise.allSettled(
      reception.served.map(async ({ rank, host, slices }) => {
        const foreign = spec.checkpoint.foreign?.sources.find((source) => source.rank === rank);
        if (foreign !== undefined) return this.#announceForeign(foreign, slices);
        const member = memberOf.get(rank);
        if (member !== undefined) return this.#leaseFrom(member, slices, epoch);
        // The rank has died since the plan was made.
        this.#served.set(rank, { rank, host, slices });
        this.lost(rank, 'the rank died', true);
      }),
    );
    const failed = leases.filter((outcome) => outcome.status === 'rejected');
    for (const { reason } of failed) {
      context.log.warn({ epoch, error: asFailure(reason).message }, 'leasing from a source failed');
    }
    if (failed.length === leases.length)
      throw failed[0]?.reason ?? new PeerLostError('no rank has the checkpoint to read it from');
  }

  /** Announces the ranks of this epoch that receive: others may read from them what has arrived. */
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

  /** `restarts`: the rank process is started again. */
  lost(rank: number, reason: string, restarts: boolean): void {
    const { context, spec } = this.#scope;
    if (this.#epochs.length === 0) return;
    const lost = this.#served.get(rank);
    this.#served.delete(rank);
    const standIn = spec.readyRanks().find((member) => member.host === lost?.host && member.rank !== rank);
    // A rank that served nothing will serve nothing after its restart.
    const hadServed = lost !== undefined || this.#unserved.some((served) => served.rank === rank);
    const isExpectedBack = (restarts && hadServed) || standIn !== undefined;
    context.tell(spec.swarm, {
      type: 'remove-source',
      swarm: this.swarm,
      rank,
      reason,
      isExpectedBack,
    });
    if (lost !== undefined) this.#unserved.push(lost);
    if (standIn !== undefined) this.#takeOver(standIn);
  }

  ready(rank: number): void {
    const member = this.#scope.spec.readyRanks().find((candidate) => candidate.rank === rank);
    if (member !== undefined) this.#takeOver(member);
  }

  /** The update has ended. Unless its ranks keep what they received, they stop being sources. */
  release(isKept: boolean): void {
    const { context, spec } = this.#scope;
    for (const { rank, slices } of isKept ? [] : this.#receivers) {
      const { swarm } = this;
      // A rank that died did not leave the swarm.
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
    // A lease that is taken after this would never be returned.
    this.#epochs = [];
    this.#served.clear();
    this.#unserved = [];
  }

  /** A rank serves what dead ranks of its host served. */
  #takeOver(member: ReadyRank): void {
    const epoch = this.#epochs.at(-1);
    const unserved = this.#unserved.filter(({ host }) => host === member.host);
    if (epoch === undefined || unserved.length === 0) return;
    this.#unserved = this.#unserved.filter(({ host }) => host !== member.host);
    const slices = [...new Set(unserved.flatMap((served) => served.slices))];
    this.#leaseFrom(member, slices, epoch).catch((error) => {
      this.#scope.context.log.warn(
        { rank: member.rank, error: asFailure(error).message },
        'leasing from a source failed',
      );
      this.#unserved.push({ rank: member.rank, host: member.host, slices });
    });
  }

  async #leaseFrom(
    { rank, ref, host }: ReadyRank,
    slices: readonly ServedSlice[],
    epoch: number,
  ): Promise<void> {
    const { context, spec } = this.#scope;
    const known = this.#served.get(rank)?.slices ?? [];
    this.#served.set(rank, { rank, host, slices: [...known, ...slices] });
    const question = { epoch, segments: [...new Set(slices.map(({ path }) => path))] };
    const { address, exposed } = await ask(
      context,
      ref,
      toRank.lease,
      question,
      // It registers the segments with its network cards: at most all of the checkpoint.
      this.#scope.within(growing(deadlines.open, spec.checkpoint.status.bytes, 'memory')),
    );
    await this.#announceComplete({ rank, address, secret: null }, exposed, slices);
  }

  /** Segments of another cluster need no lease: they can be read as long as that cluster holds them. */
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
