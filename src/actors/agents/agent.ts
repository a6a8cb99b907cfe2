import { DeadlineError, PeerLostError, type WeightcastError } from '../../errors.ts';
import type { Actor, ActorRef, Context, SpawnOptions } from '../kernel/index.ts';
import { type AgentMessage, toAgent } from '../protocol/agent.ts';
import { ask } from '../protocol/ask.ts';
import { deadlines } from '../protocol/deadlines.ts';
import { type HostsMessage, type RunningRank, toHosts } from '../protocol/hosts.ts';
import { anyOf } from '../protocol/table.ts';

/** A rank's process that has ended; `pid` is null if there was none to end. */
export interface EndedRank {
  readonly node: string;
  readonly pid: number | null;
  readonly how: string;
  readonly wasKilled: boolean;
}

/** The rank processes of this host. */
export interface HostRanks {
  readonly running: readonly RunningRank[];
  launch(order: Extract<AgentMessage, { type: 'launch' }>): void;
  end(node: string, graceMilliseconds: number, isForGood: boolean): void;
  /** The one who is told of ends from now on; null for nobody. */
  onEnded(listener: ((ended: EndedRank) => void) | null): void;
}

export interface AgentPorts {
  readonly host: string;
  readonly machine: string;
  readonly machineName: string;
  readonly ranks: HostRanks;
  /** The supervisor knows this agent. */
  joined(): void;
  /** The supervisor does not take it, or is lost. */
  left(error: WeightcastError): void;
  /** The cluster ends. */
  end(): void;
}

type Inbox =
  | AgentMessage
  | { readonly type: 'introduced' }
  | { readonly type: 'left'; readonly error: WeightcastError };

export const agentSpawnOptions: SpawnOptions<Inbox> = { accepts: anyOf(toAgent) };

/** An agent, for as long as it is connected to one supervisor: it takes its orders, and says how ranks end. */
export class AgentActor implements Actor<Inbox> {
  readonly #hosts: ActorRef<HostsMessage>;
  readonly #ports: AgentPorts;

  constructor(ports: AgentPorts, hosts: ActorRef<HostsMessage>) {
    this.#ports = ports;
    this.#hosts = hosts;
  }

  started(context: Context<Inbox>): void {
    const { host, machine, machineName, ranks } = this.#ports;
    // Before it says which run: none may end between the two unsaid.
    ranks.onEnded((ended) => context.tell(this.#hosts, { type: 'rank-ended', host, ...ended }));
    // As a message, so that what was said before is heard before.
    context.watch(this.#hosts, ({ reason }) => ({
      type: 'left',
      error: new PeerLostError(`the supervisor is lost: ${reason}`),
    }));
    const fields = { host, agent: context.self, machine, machineName, ranks: [...ranks.running] };
    context.pipe(
      ask(context, this.#hosts, toHosts.introduce, fields, { deadlineMilliseconds: deadlines.control }),
      () => ({ type: 'introduced' }) as const,
      (error) => ({ type: 'left', error }) as const,
    );
  }

  receive(message: Inbox): void {
    const { ranks } = this.#ports;
    switch (message.type) {
      case 'introduced':
        return this.#ports.joined();
      case 'left':
        return this.#ports.left(message.error);
      case 'launch':
        return ranks.launch(message);
      case 'end-rank':
        return ranks.end(message.node, message.graceMilliseconds, message.isForGood);
      case 'end':
        return this.#ports.end();
    }
  }
}

/** Whether the same may be tried again: the supervisor is busy, or has just died. */
export function isLater(error: WeightcastError): boolean {
  return error instanceof DeadlineError || error instanceof PeerLostError;
}
