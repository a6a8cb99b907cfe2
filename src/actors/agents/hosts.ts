import { UsageError } from '../../errors.ts';
import type { Actor, ActorRef, Context, SpawnOptions } from '../kernel/index.ts';
import { sameActor } from '../kernel/index.ts';
import type { AgentMessage } from '../protocol/agent.ts';
import { type HostsMessage, type Introduction, type RunningRank, toHosts } from '../protocol/hosts.ts';
import { anyOf } from '../protocol/table.ts';
import type { AgentRank } from './agent-rank.ts';

/** An agent that was cut off for a moment comes back by itself. */
const replaceMilliseconds = 3_000;

export interface HostsPorts {
  /** Those that have agents; `mayRun`: one of an earlier supervisor that has not said so yet. */
  readonly hosts: readonly { readonly name: string; readonly mayRun: boolean }[];
  /** There was a supervisor before: agents and ranks may run. */
  readonly isSuccessor: boolean;
  /** How long a host that is cut off keeps its ranks, and until it is noticed. */
  readonly cutOffMilliseconds: number;
  /** How long an agent may take to start and connect. */
  readonly startMilliseconds: number;
  /** What a rank gets to end by itself. */
  readonly graceMilliseconds: number;
  /** An agent is to be started for that host, in place of the last one if that is lost, unless it joins by itself. */
  need(host: string, isLost: boolean): void;
  /** Whether agents end when this actor does. */
  isClusterEnd(): boolean;
  /** Whether that process talks to the supervisor. */
  isConnected(node: string): boolean;
  /** Whether an agent that is gone is started again. One that joins is not: who has ended it wants its host back. */
  startsAgain(host: string): boolean;
  /** That rank did not end by itself. */
  onKilled(name: string): void;
}

export type HostsInbox =
  | HostsMessage
  | { readonly type: 'order'; readonly rank: AgentRank }
  | { readonly type: 'agent-down'; readonly host: string; readonly agent: ActorRef<AgentMessage> }
  | { readonly type: 'agent-missing' | 'cut-off'; readonly host: string }
  /** What should have started an agent has ended, and why. */
  | { readonly type: 'agent-ended'; readonly host: string; readonly how: string }
  /** Resolves when no agent is on its way back. */
  | { readonly type: 'await-agents'; readonly resolve: () => void }
  /** All ranks that survivors could be have been asked for: the others end. */
  | { readonly type: 'end-others' };

export const hostsSpawnOptions: SpawnOptions<HostsInbox> = {
  accepts: anyOf(toHosts),
  // What an agent says stays in order: a rank ends after it was introduced.
  isSignal: ({ type }) => type !== 'introduce' && type !== 'rank-ended',
};

interface Host {
  mayRun: boolean;
  agent: ActorRef<AgentMessage> | null;
  machine: string;
  machineName: string;
  /** Those that have not ended. */
  readonly ranks: Set<AgentRank>;
  /** Of an earlier supervisor, those that nobody has asked for yet. */
  survivors: RunningRank[];
  /** Nodes that were taken for dead or had an order to end, and may still run: they never become a rank again. */
  past: Set<string>;
  /** Of a host without an agent: what cancels the wait before another one is started; null if none is wanted. */
  cancelMissing: (() => void) | null;
  /** What cancels the wait until its ranks are given up. */
  cancelCutOff: (() => void) | null;
}

/** Other hosts, as the supervisor's process sees them: which have an agent, and what ranks run there. */
export class HostsActor implements Actor<HostsInbox> {
  readonly #ports: HostsPorts;
  readonly #hosts = new Map<string, Host>();
  readonly #awaiting: (() => void)[] = [];
  #othersEnd = false;

  constructor(ports: HostsPorts) {
    this.#ports = ports;
    for (const { name, mayRun } of ports.hosts)
      this.#hosts.set(name, {
        mayRun,
        agent: null,
        machine: '',
        machineName: '',
        ranks: new Set(),
        survivors: [],
        past: new Set(),
        cancelMissing: null,
        cancelCutOff: null,
      });
  }

  receive(message: HostsInbox, context: Context<HostsInbox>): void {
    switch (message.type) {
      case 'introduce':
        return this.#introduce(message as Introduction, message, context);
      case 'rank-ended':
        return this.#rankEnded(message);
      case 'order':
        return this.#order(message.rank, context);
      case 'agent-down':
        return this.#agentDown(message.host, message.agent, context);
      case 'agent-missing':
        return this.#agentMissing(message.host, context);
      case 'cut-off':
        return this.#cutOff(message.host, context);
      case 'agent-ended':
        return this.#agentEnded(message.host, message.how);
      case 'end-others':
        return this.#endOthers(context);
      case 'await-agents':
        this.#awaiting.push(message.resolve);
        return this.#checkAwaited();
    }
  }

  stopping(context: Context<HostsInbox>): void {
    if (!this.#ports.isClusterEnd()) return;
    for (const { agent } of this.#hosts.values()) if (agent !== null) context.tell(agent, { type: 'end' });
  }

  #introduce(
    { host: name, agent, machine, machineName, ranks }: Introduction,
    question: Extract<HostsInbox, { type: 'introduce' }>,
    context: Context<HostsInbox>,
  ): void {
    const host = this.#hosts.get(name);
    if (host === undefined)
      return context.fail(new UsageError(`the cluster has no host ${name} with an agent`));
    if (host.agent !== null && host.machine !== machine)
      return context.fail(
        new UsageError(
          `host ${name} has an agent on machine ${host.machineName} already, and this is ${machineName}: each host needs a join file of its own`,
        ),
      );
    if (host.agent !== null) context.unwatch(host.agent);
    host.cancelMissing?.();
    host.cancelCutOff?.();
    const known = { agent, machine, machineName, mayRun: true };
    Object.assign(host, { ...known, cancelMissing: null, cancelCutOff: null });
    context.reply(question, {});
    context.log.info({ host: name, ranks: ranks.length }, 'the agent of a host has joined');
    context.watch(agent, () => ({ type: 'agent-down', host: name, agent }));
    const running = new Map(ranks.map((one) => [one.node, one]));
    host.past = new Set([...host.past].filter((node) => running.has(node)));
    for (const rank of [...host.ranks]) {
      if (rank.hasEnded) host.ranks.delete(rank);
      if (rank.node === null) continue;
      if (rank.hasEnded && running.has(rank.node)) host.past.add(rank.node);
      if (running.delete(rank.node)) rank.found(agent);
      else this.#ended(host, rank, 'it has ended while its agent was away');
    }
    host.survivors = [...running.values()];
    for (const rank of host.ranks) if (rank.node === null) this.#start(host, rank);
    if (this.#othersEnd) this.#endSurvivors(host, context);
    this.#checkAwaited();
  }

  #checkAwaited(): void {
    if ([...this.#hosts.values()].some(({ agent, mayRun }) => agent === null && mayRun)) return;
    for (const resolve of this.#awaiting) resolve();
  }

  #order(rank: AgentRank, context: Context<HostsInbox>): void {
    if (rank.hasEnded) return;
    const { host: name } = rank.order;
    const host = this.#hosts.get(name)!;
    host.ranks.add(rank);
    if (host.agent !== null) return this.#start(host, rank);
    host.mayRun ||= this.#ports.isSuccessor;
    this.#ports.need(name, false);
    if (host.cancelMissing === null) this.#agentMissing(name, context, false);
  }

  /** Another one is started, again and again. */
  #agentMissing(name: string, context: Context<HostsInbox>, isLost = true): void {
    if (isLost) this.#ports.need(name, true);
    const host = this.#hosts.get(name)!;
    const { startMilliseconds } = this.#ports;
    host.cancelMissing = context.schedule(startMilliseconds, { type: 'agent-missing', host: name });
  }

  #start(host: Host, rank: AgentRank): void {
    const { role, rank: number } = rank.order;
    const survivor = host.survivors.find(
      (one) => one.rank === number && one.role === role && !host.past.has(one.node),
    );
    if (survivor === undefined) return rank.launch(host.agent!);
    host.survivors = host.survivors.filter((one) => one !== survivor);
    rank.adopt(survivor.node, host.agent!);
  }

  #rankEnded({ host: name, node, pid, how, wasKilled }: Extract<HostsInbox, { type: 'rank-ended' }>): void {
    const host = this.#hosts.get(name);
    if (host === undefined) return;
    const rank = [...host.ranks].find((one) => one.node === node);
    host.past.delete(node);
    host.survivors = host.survivors.filter((one) => one.node !== node);
    if (rank === undefined) return;
    if (wasKilled) this.#ports.onKilled(`rank ${rank.order.rank} on host ${name} (process ${pid})`);
    this.#ended(host, rank, how);
  }

  #ended(host: Host, rank: AgentRank, how: string): void {
    host.ranks.delete(rank);
    rank.ended(how);
  }

  #agentDown(name: string, agent: ActorRef<AgentMessage>, context: Context<HostsInbox>): void {
    const host = this.#hosts.get(name)!;
    if (host.agent === null || !sameActor(host.agent, agent)) return;
    host.agent = null;
    host.survivors = [];
    for (const rank of host.ranks) rank.agentLost();
    context.log.warn({ host: name }, 'the agent of a host is lost');
    const { cutOffMilliseconds } = this.#ports;
    host.cancelMissing = context.schedule(replaceMilliseconds, { type: 'agent-missing', host: name });
    host.cancelCutOff = context.schedule(cutOffMilliseconds, { type: 'cut-off', host: name });
  }

  /** An agent that is connected is another one than that which has ended, or its launcher was of no use to it. */
  #agentEnded(name: string, how: string): void {
    const host = this.#hosts.get(name);
    if (host === undefined || host.agent !== null) return;
    for (const rank of [...host.ranks])
      if (rank.node === null) this.#ended(host, rank, `the agent of host ${name} ended: ${how}`);
  }

  /** What still talks to the supervisor is not cut off, whatever keeps its agent away: it goes on, if that is to come back. */
  #cutOff(name: string, context: Context<HostsInbox>): void {
    const host = this.#hosts.get(name)!;
    const { cutOffMilliseconds, isConnected } = this.#ports;
    const comesBack = this.#ports.startsAgain(name);
    const started = [...host.ranks].filter(({ node }) => node !== null);
    const lost = started.filter(({ node }) => !comesBack || !isConnected(node!));
    for (const rank of lost) {
      host.past.add(rank.node!);
      this.#ended(host, rank, 'its host was cut off, and ends it');
    }
    const isLeft = lost.length < started.length;
    host.cancelCutOff = isLeft ? context.schedule(cutOffMilliseconds, { type: 'cut-off', host: name }) : null;
  }

  #endOthers(context: Context<HostsInbox>): void {
    this.#othersEnd = true;
    for (const host of this.#hosts.values()) if (host.agent !== null) this.#endSurvivors(host, context);
  }

  #endSurvivors(host: Host, context: Context<HostsInbox>): void {
    const { graceMilliseconds } = this.#ports;
    for (const { node } of host.survivors) {
      host.past.add(node);
      context.tell(host.agent!, { type: 'end-rank', node, graceMilliseconds, isForGood: false });
    }
    host.survivors = [];
  }
}
