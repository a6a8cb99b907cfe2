import type { ActorRef, Context } from '../kernel/index.ts';
import type { AgentMessage } from '../protocol/agent.ts';
import type { LaunchedRank, Removal } from '../supervisor/ports.ts';

/** What launching a rank by an agent needs. */
export interface AgentOrder {
  readonly host: string;
  readonly rank: number;
  /** Of the process that is started, unless one goes on. */
  readonly node: string;
  /** What must be the same for a process that runs to go on as that rank. */
  readonly role: string;
  readonly order: Record<string, unknown>;
}

/** What becomes of such a rank. */
export interface AgentRankPorts {
  readonly tell: Context<never>['tell'];
  /** Time that a rank needs to release all it has. */
  readonly graceMilliseconds: number;
  /** What keeps the host's agent away, as far as is known. */
  hint(host: string): string | undefined;
  /** It has ended: its node is not to be heard any more. */
  onEnded(node: string, how: string): void;
}

/** Of one that is removed: nobody waits until its host is back. */
const cutOff = 'its host is cut off';

/** One life of a rank on a host that has an agent, whether that is connected now or not. */
export class AgentRank implements LaunchedRank {
  readonly exited: Promise<string>;
  readonly adopted: Promise<void>;
  readonly order: AgentOrder;
  readonly #ports: AgentRankPorts;
  /** Its process; null until an agent has been told of it. */
  #node: string | null = null;
  #agent: ActorRef<AgentMessage> | null = null;
  /** What it was asked to do last. */
  #end: { readonly graceMilliseconds: number; readonly isForGood: boolean } | null = null;
  #isRemoved = false;
  #isSurvivor = false;
  #hasEnded = false;
  #settle: (how: string) => void = () => {};
  #adopt: () => void = () => {};

  constructor(order: AgentOrder, ports: AgentRankPorts) {
    this.order = order;
    this.#ports = ports;
    this.exited = new Promise((resolve) => {
      this.#settle = resolve;
    });
    this.adopted = new Promise((resolve) => {
      this.#adopt = resolve;
    });
  }

  get node(): string | null {
    return this.#node;
  }

  get hasEnded(): boolean {
    return this.#hasEnded;
  }

  get isSurvivor(): boolean {
    return this.#isSurvivor;
  }

  get hint(): string | undefined {
    return this.#node === null ? this.#ports.hint(this.order.host) : undefined;
  }

  /** A process that has outlived an earlier supervisor is the rank. */
  adopt(node: string, agent: ActorRef<AgentMessage>): void {
    this.#isSurvivor = true;
    this.#node = node;
    this.#agent = agent;
    this.#adopt();
    this.#pass();
  }

  /** Its host's agent starts it. */
  launch(agent: ActorRef<AgentMessage>): void {
    const { rank, node, role, order } = this.order;
    this.#node = node;
    this.#agent = agent;
    this.#ports.tell(agent, { type: 'launch', rank, node, role, order });
  }

  /** It runs, under another agent, or the same one that was cut off. One that was removed meanwhile ends now. */
  found(agent: ActorRef<AgentMessage>): void {
    this.#agent = agent;
    this.#pass();
  }

  agentLost(): void {
    this.#agent = null;
    if (this.#isRemoved) this.ended(cutOff);
  }

  ended(how: string): void {
    if (this.#hasEnded) return;
    this.#hasEnded = true;
    this.#ports.onEnded(this.#node ?? this.order.node, how);
    this.#settle(how);
  }

  async stop(graceMilliseconds = Number.POSITIVE_INFINITY, removal?: Removal): Promise<void> {
    this.#isRemoved ||= removal !== undefined;
    const isForGood = (removal?.isHostFree ?? false) || (this.#end?.isForGood ?? false);
    const grace = Math.min(graceMilliseconds, this.#ports.graceMilliseconds);
    const earliest = Math.min(grace, this.#end?.graceMilliseconds ?? grace);
    this.#end = { graceMilliseconds: earliest, isForGood };
    if (this.#node === null) this.ended('it was not started yet');
    else if (this.#agent === null && this.#isRemoved) this.ended(cutOff);
    else this.#pass();
    await this.exited;
  }

  #pass(): void {
    if (this.#end === null || this.#agent === null || this.#node === null) return;
    this.#ports.tell(this.#agent, { type: 'end-rank', node: this.#node, ...this.#end });
  }
}
