import { type AgentOrder, AgentRank } from '../actors/agents/agent-rank.ts';
import { HostsActor, type HostsInbox, hostsSpawnOptions } from '../actors/agents/hosts.ts';
import type { ActorRef, ActorSystem } from '../actors/kernel/index.ts';
import type { LaunchedRank } from '../actors/supervisor/ports.ts';
import { systemClock } from '../native-bridge/clock.ts';
import type { HubTransport } from '../transport/hub.ts';
import { defaultLimits, limitsOf } from '../transport/limits.ts';
import { within } from '../within.ts';
import type { Children } from './children.ts';
import {
  type HostOptions,
  type OwnerReport,
  ownerReport,
  type SupervisorConfiguration,
  type SupervisorReport,
} from './configuration.ts';
import { stopTimes } from './stop-times.ts';

/** Whether its ranks are started by an agent, and not by the supervisor's process itself. */
export function hasAgent({ launcher, joins }: HostOptions): boolean {
  return joins === true || (launcher?.length ?? 0) > 0;
}

/** An agent looks for another supervisor every second. */
const mostReturnMilliseconds = 5_000;

/** The agents of other hosts, in the supervisor's process: its ranks there are started by them. */
export class HostAgents {
  readonly #configuration: SupervisorConfiguration;
  readonly #hub: HubTransport;
  readonly #system: ActorSystem;
  readonly #hosts: ActorRef<HostsInbox>;
  readonly #graceMilliseconds: number;
  #isClusterEnd = false;
  /** How the last agent of a host ended. */
  readonly #ends = new Map<string, string>();

  /** `report`: tells the cluster's owner, which starts agents that do not join by themselves. */
  constructor(
    configuration: SupervisorConfiguration,
    hub: HubTransport,
    system: ActorSystem,
    children: Children,
    report: (what: SupervisorReport) => void,
  ) {
    this.#configuration = configuration;
    this.#hub = hub;
    this.#system = system;
    const { hosts, orphanTimeoutMilliseconds, startTimeoutMilliseconds, stopTimeoutMilliseconds } =
      configuration;
    this.#graceMilliseconds = stopTimes(stopTimeoutMilliseconds).agent;
    const isSuccessor = configuration.incarnation > 0;
    const { lostAfterMilliseconds } = { ...defaultLimits, ...limitsOf(process.env) };
    const endpoint = hub.remoteEndpoint ?? hub.endpoint;
    const startsAgain = (host: string) => hosts[host]!.joins !== true;
    const ports = {
      hosts: Object.entries(hosts)
        .filter(([, host]) => hasAgent(host))
        .map(([name, { joins = false }]) => ({ name, mayRun: isSuccessor && joins })),
      isSuccessor,
      cutOffMilliseconds: orphanTimeoutMilliseconds + 2 * lostAfterMilliseconds,
      startMilliseconds: startTimeoutMilliseconds,
      graceMilliseconds: this.#graceMilliseconds,
      need: (host: string, isLost: boolean) => {
        if (startsAgain(host)) report({ kind: 'agent', host, endpoint, isLost });
      },
      startsAgain,
      isClusterEnd: () => this.#isClusterEnd,
      isConnected: (node: string) => hub.isConnected(node),
      onKilled: (name: string) => children.noteKilled(name),
    };
    this.#hosts = system.spawn('hosts', () => new HostsActor(ports), hostsSpawnOptions);
    process.on('message', (message) => {
      const { data } = ownerReport.safeParse(message);
      if (data !== undefined) this.#agentEnded(data);
    });
  }

  launch(order: AgentOrder): LaunchedRank {
    const rank = new AgentRank(order, {
      tell: (ref, message) => this.#system.tell(ref, message),
      graceMilliseconds: this.#graceMilliseconds,
      hint: (host) => this.#hintOf(host),
      onEnded: (node, how) => this.#hub.declareLost(node, how),
    });
    this.#system.tell(this.#hosts, { type: 'order', rank });
    return rank;
  }

  /** All ranks have been asked for: those that run beside them end. */
  endOthers(): void {
    this.#system.tell(this.#hosts, { type: 'end-others' });
  }

  /**
   * The agents end with this process: no other supervisor will take its place. Resolves when those that look for it, as after
   * the death of the last one, have found it.
   */
  async clusterEnds(milliseconds: number): Promise<void> {
    this.#isClusterEnd = true;
    const present = new Promise<void>((resolve) => {
      this.#system.tell(this.#hosts, { type: 'await-agents', resolve });
    });
    await within(systemClock, Math.min(milliseconds, mostReturnMilliseconds), present);
  }

  #agentEnded({ host, how }: OwnerReport): void {
    this.#ends.set(host, how);
    this.#system.tell(this.#hosts, { type: 'agent-ended', host, how });
  }

  #hintOf(host: string): string {
    const { hosts } = this.#configuration;
    const how = this.#ends.get(host);
    if (hosts[host]?.joins === true) return `no agent of host ${host} has joined`;
    const started = `no agent of host ${host} has joined (it is started with: ${hosts[host]?.launcher?.join(' ')})`;
    if (how !== undefined) return `${started}; the last one ended: ${how}`;
    if (this.#hub.remoteEndpoint !== null) return started;
    return `${started}; without the option listen only this machine reaches ${this.#hub.endpoint}`;
  }
}
