import type { EngineClient } from '../../engines/engine-client.ts';
import { UsageError } from '../../errors.ts';
import type { ActorRef, Context } from '../kernel/index.ts';
import type { InstanceOptions } from '../protocol/instance-options.ts';
import type { BridgeGroupMessage } from './bridge-group.ts';
import { BridgeGroupActor, bridgesOfGroup } from './bridge-group.ts';
import type { SupervisorInbox } from './inbox.ts';

/** The supervisor's children are the planner, the swarm and these; each has bridges for children. */
const groupLimit = 24;

interface Group {
  readonly ref: ActorRef<BridgeGroupMessage>;
  /** Instances whose bridges it has. */
  readonly names: Set<string>;
}

/** The bridges of all instances, in groups that are made as they are needed: an actor has a limited number of children. */
export class BridgeGroups {
  readonly #groups: Group[] = [];
  readonly #engineClient: (instance: InstanceOptions) => EngineClient;

  constructor(engineClient: (instance: InstanceOptions) => EngineClient) {
    this.#engineClient = engineClient;
  }

  /** The supervisor is told with `bridge-open` when the bridge is there. Throws `UsageError` if there are too many. */
  open(instance: InstanceOptions, context: Context<SupervisorInbox>): void {
    const group = this.#groups.find(({ names }) => names.size < bridgesOfGroup) ?? this.#add(context);
    if (group === null) {
      throw new UsageError(
        `a cluster has at most ${groupLimit * bridgesOfGroup} instances; ${instance.name} is one more`,
      );
    }
    group.names.add(instance.name);
    context.tell(group.ref, { type: 'open-bridge', instance });
  }

  close(instance: InstanceOptions, context: Context<SupervisorInbox>): void {
    const group = this.#groups.find(({ names }) => names.delete(instance.name));
    if (group !== undefined) context.tell(group.ref, { type: 'close-bridge', instance });
  }

  #add(context: Context<SupervisorInbox>): Group | null {
    const number = this.#groups.length;
    if (number === groupLimit) return null;
    const { self } = context;
    const ref = context.spawn<BridgeGroupMessage>(`bridges-${number}`, () => {
      return new BridgeGroupActor(self, this.#engineClient);
    });
    const group = { ref, names: new Set<string>() };
    this.#groups.push(group);
    return group;
  }
}
