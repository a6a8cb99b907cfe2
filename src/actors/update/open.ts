import { MemoryError } from '../../errors.ts';
import type { Plan } from '../../plan/plan.ts';
import type { Copy } from '../../plan/reception.ts';
import type { LeasedSources } from '../join/leased-sources.ts';
import { ask } from '../protocol/ask.ts';
import { deadlines } from '../protocol/deadlines.ts';
import { toPlanner } from '../protocol/planner.ts';
import { toRank } from '../protocol/rank.ts';
import type { Opened, Planned, ReceptionOrder, Registered } from '../protocol/values.ts';
import type { RankMember } from '../supervisor/rank-registry.ts';
import type { CommunicatorKeeper } from './communicators.ts';
import type { UpdateScope } from './context.ts';
import { groupsOf } from './groups.ts';

/** Ranks that broadcast to each other, and their plan. */
export interface OpenGroup {
  readonly ranks: readonly RankMember[];
  readonly plan: Plan;
  /** What they are about to receive from other hosts, and where it will be. */
  readonly mirrors: readonly Copy[];
}

export interface Opening {
  readonly epoch: number;
  readonly groups: readonly OpenGroup[];
  /** Rank to the address of its worker link. */
  readonly links: ReadonlyMap<number, string>;
}

interface Prepared {
  readonly member: RankMember;
  readonly freeBytes: number;
  readonly bucketBytes: number;
  readonly layouts: readonly string[];
  readonly planDigests: readonly string[];
}

interface Group {
  readonly ranks: readonly RankMember[];
  readonly keeper: CommunicatorKeeper;
}

interface PreparedGroup extends Group {
  readonly prepared: readonly Prepared[];
}

interface PlannedGroup extends PreparedGroup {
  readonly planned: Planned;
}

/** An epoch in which nothing is taken yet. */
export interface Planning {
  readonly epoch: number;
  readonly groups: readonly PlannedGroup[];
}

/** A rank that refuses even after this many smaller plans is not short of memory for a moment. */
const planningAttempts = 4;

/** The beginning of an update, in which no engine is touched: prepare, plan, open. */
export class Opener {
  readonly #scope: UpdateScope;
  readonly #sources: LeasedSources;
  /** What ranks that refused their slots may be planned with. */
  readonly #ceilings = new Map<number, number>();

  constructor(scope: UpdateScope, sources: LeasedSources) {
    this.#scope = scope;
    this.#sources = sources;
  }

  /** Begins an epoch and plans for the memory there is. Takes nothing. */
  async plan(): Promise<Planning> {
    const { order } = this.#scope;
    const epoch = order.nextEpoch();
    const groups = groupsOf(order.ranks).map((ranks) => ({ ranks, keeper: order.communicators.of(ranks) }));
    const prepared = await Promise.all(
      groups.map(async (group) => ({ ...group, prepared: await this.#prepare(epoch, group) })),
    );
    const planned = await Promise.all(
      prepared.map(async (group) => ({ ...group, planned: await this.#plan(epoch, group) })),
    );
    return { epoch, groups: planned };
  }

  /**
   * Opens what was planned, or plans now if `planning` is null; an allocation that fails all the same is answered with
   * a smaller plan.
   */
  async open(planning: Planning | null): Promise<Opening> {
    let next = planning;
    for (let attempt = 1; attempt <= planningAttempts; attempt += 1) {
      const opening = await this.#attempt(next ?? (await this.plan()));
      if (opening !== null) return opening;
      next = null;
    }
    const refusing = [...this.#ceilings.keys()].join(', ');
    throw new MemoryError(
      `rank ${refusing} refused its slots ${planningAttempts} times; free device memory there`,
    );
  }

  /** Null after pressure. */
  async #attempt({ epoch, groups }: Planning): Promise<Opening | null> {
    const opened = groups.map(({ ranks, planned }) => {
      return { ranks, plan: planned.plan, mirrors: mirrorsOf(planned, ranks) };
    });
    for (const { mirrors } of opened) this.#scope.mirrors.push(...mirrors);
    const plans = groups.map(({ planned }) => planned);
    await this.#sources.lease(epoch, plans);
    const opens = groups.map((group) => this.#openGroup(epoch, group));
    const answers = await this.#scope.allOrAbandon(epoch, opens);
    const links = new Map<number, string>();
    for (const [index, { prepared }] of groups.entries()) this.#note(prepared, answers[index]!, links);
    if (links.size < this.#scope.order.ranks.length) {
      await this.#scope.abandon(epoch, 'planning again after memory pressure');
      return null;
    }
    await this.#scope.allOrAbandon(epoch, [this.#sources.announce(answers.flat())]);
    return { epoch, groups: opened, links };
  }

  /** Asks a group for what a plan depends on, and one of it for a communicator if there is none to use again. */
  async #prepare(epoch: number, { ranks, keeper }: Group): Promise<Prepared[]> {
    const { context } = this.#scope;
    const missing = keeper.missing(ranks);
    const answers = await Promise.all(
      ranks.map(({ ref }, index) => {
        const question = { epoch, createCommunicator: index === 0 ? missing : null };
        return ask(context, ref, toRank.prepare, question, this.#scope.within(deadlines.control));
      }),
    );
    keeper.hold(answers[0]!.createdCommunicator);
    return answers.map(({ freeBytes, ...answer }, index) => {
      const member = ranks[index]!;
      const ceiling = this.#ceilings.get(member.rank) ?? Number.POSITIVE_INFINITY;
      return { ...answer, member, freeBytes: Math.min(freeBytes, ceiling) };
    });
  }

  #plan(epoch: number, { prepared, keeper }: PreparedGroup): Promise<Planned> {
    const { context, order } = this.#scope;
    const { checkpoint, options, planner } = order;
    const usualBucketBytes = [keeper.leastBucketBytes, ...prepared.map(({ bucketBytes }) => bucketBytes)];
    const question = {
      layout: checkpoint.layout,
      ranks: prepared.map(({ member, freeBytes }) => ({ ...asFabricRank(member), freeBytes })),
      sources: [...order.readyRanks().map(asFabricRank), ...foreignRanks(checkpoint)],
      copies: [...checkpoint.copies],
      lost: [...checkpoint.lost],
      mirrorName: `mirror-${epoch}-`,
      memoryFraction: options.memoryFraction,
      bucketBytes: options.bucketBytes ?? Math.max(...usualBucketBytes),
    };
    return ask(context, planner, toPlanner.plan, question, this.#scope.within(deadlines.plan));
  }

  async #openGroup(epoch: number, { keeper, prepared, planned }: PlannedGroup): Promise<Opened[]> {
    const { context, order } = this.#scope;
    const { checkpoint, options } = order;
    const { plan } = planned;
    const communicator = keeper.offer();
    const opens = prepared.map(({ member, freeBytes, layouts, planDigests }) => {
      const question = {
        epoch,
        version: versionOf(checkpoint),
        verify: options.verify,
        exchanges: order.exchanges,
        communicator,
        planDigest: plan.digest,
        layout: plan.layout,
        plan: planDigests.includes(plan.digest) ? null : plan,
        manifest: layouts.includes(plan.layout) ? null : (planned.manifest ?? checkpoint.manifest),
        reception: this.#receptionOf(member, planned),
        // Half of what the plan left alone.
        reserveBytes: (freeBytes * (1 - options.memoryFraction)) / 2,
      };
      return ask(context, member.ref, toRank.open, question, this.#scope.within(deadlines.open));
    });
    return Promise.all(opens);
  }

  #receptionOf({ rank }: RankMember, { reception }: Planned): ReceptionOrder | null {
    const mirrors = reception?.mirrors.filter(({ receiver }) => receiver === rank) ?? [];
    if (reception === null || mirrors.length === 0) return null;
    const { swarm: ref } = this.#scope.order;
    return { swarm: this.#sources.swarm, ref, sliceBytes: reception.sliceBytes, mirrors };
  }

  #note(group: readonly Prepared[], answers: readonly Opened[], links: Map<number, string>): void {
    for (const [index, answer] of answers.entries()) {
      const { member, freeBytes } = group[index]!;
      if (answer.outcome === 'open') links.set(member.rank, answer.linkAddress);
      // Enough was free and still the allocation failed: someone else took it meanwhile, or it is in pieces.
      else
        this.#ceilings.set(
          member.rank,
          answer.freeBytes < answer.wantedBytes ? answer.freeBytes : freeBytes / 2,
        );
    }
  }
}

function asFabricRank({ rank, host, directory, nics }: RankMember) {
  return { rank, host, directory, nics: [...nics] };
}

function foreignRanks({ foreign }: Registered) {
  return (foreign?.sources ?? []).map(({ rank, host, nics }) => ({
    rank,
    host,
    directory: '',
    nics: [...nics],
  }));
}

function mirrorsOf({ reception }: Planned, ranks: readonly RankMember[]): OpenGroup['mirrors'] {
  const hostOf = new Map(ranks.map(({ rank, host }) => [rank, host]));
  return (reception?.mirrors ?? []).map(({ slice, path, receiver }) => {
    return { slice, path, rank: receiver, host: hostOf.get(receiver)! };
  });
}

export function versionOf({ status }: Registered): string {
  return `${status.checkpoint}@${status.digest}`;
}
