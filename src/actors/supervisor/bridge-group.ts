import type { EngineClient } from '../../engines/engine-client.ts';
import type { Actor, ActorRef, Context } from '../kernel/index.ts';
import type { BridgeMessage } from '../protocol/bridge.ts';
import type { InstanceOptions } from '../protocol/instance-options.ts';
import type { SupervisorInbox } from './inbox.ts';
import { VllmBridgeActor } from './vllm-bridge.ts';

export type BridgeGroupMessage =
  | { readonly type: 'open-bridge'; readonly instance: InstanceOptions }
  | { readonly type: 'close-bridge'; readonly instance: InstanceOptions };

/** Bridges that one group holds: an actor has at most 32 children. */
export const bridgesOfGroup = 32;

/** The parent of some of the bridges, so that a cluster may have more instances than an actor has children. */
export class BridgeGroupActor implements Actor<BridgeGroupMessage> {
  readonly #supervisor: ActorRef<SupervisorInbox>;
  readonly #createClient: (instance: InstanceOptions) => EngineClient;
  readonly #bridges = new Map<string, ActorRef<BridgeMessage>>();

  constructor(
    supervisor: ActorRef<SupervisorInbox>,
    createClient: (instance: InstanceOptions) => EngineClient,
  ) {
    this.#supervisor = supervisor;
    this.#createClient = createClient;
  }

  async receive(message: BridgeGroupMessage, context: Context<BridgeGroupMessage>): Promise<void> {
    const { name } = message.instance;
    if (message.type === 'close-bridge') {
      const bridge = this.#bridges.get(name);
      this.#bridges.delete(name);
      if (bridge !== undefined) await context.stop(bridge);
      return;
    }
    const bridge = context.spawn(`bridge-${name}`, () => {
      return new VllmBridgeActor(this.#createClient(message.instance));
    });
    this.#bridges.set(name, bridge);
    context.tell(this.#supervisor, { type: 'bridge-open', instance: name, bridge });
  }
}
