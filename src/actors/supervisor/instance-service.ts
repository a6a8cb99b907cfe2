import type { EngineClient } from '../../engines/engine-client.ts';
import { asFailure, BusyError } from '../../errors.ts';
import { type Context, restartForEver, type SpawnOptions } from '../kernel/index.ts';
import { ask } from '../protocol/ask.ts';
import { type BridgeMessage, toBridge } from '../protocol/bridge.ts';
import { deadlines } from '../protocol/deadlines.ts';
import { type Instance, ranksOf } from '../protocol/instance.ts';
import type { UpdateTarget } from '../update/context.ts';
import type { MessageOf, SupervisorInbox } from './inbox.ts';
import type { InstanceRegistry } from './instance-registry.ts';
import type { Jobs } from './jobs.ts';
import type { SupervisorPorts } from './ports.ts';
import type { RankProcesses } from './rank-processes.ts';
import { VllmBridgeActor } from './vllm-bridge.ts';
import type { WaitingCallers } from './waiting-callers.ts';

/** A bridge that crashes fails the call that it makes, and nothing else. It is started again for ever. */
const bridgeSpawnOptions: SpawnOptions<BridgeMessage> = { supervision: restartForEver };

/** Adds and removes instances: their entry in the registry, their bridge and their rank processes. */
export class InstanceService {
  readonly #instances: InstanceRegistry;
  readonly #processes: RankProcesses;
  readonly #jobs: Jobs;
  readonly #callers: WaitingCallers;
  readonly #ports: SupervisorPorts;
  #bridges = 0;

  constructor(
    instances: InstanceRegistry,
    processes: RankProcesses,
    jobs: Jobs,
    callers: WaitingCallers,
    ports: SupervisorPorts,
  ) {
    this.#instances = instances;
    this.#processes = processes;
    this.#jobs = jobs;
    this.#callers = callers;
    this.#ports = ports;
  }

  /** Throws `UsageError`; then the cluster is as before. */
  join(instance: Instance, context: Context<SupervisorInbox>): void {
    this.#instances.checkNew(instance.name);
    this.#processes.checkNew(ranksOf(instance));
    let checked: EngineClient | null = this.#ports.engineClient(instance);
    // The client of a bridge ends with it: each later life gets one of its own.
    const create = () => {
      const client = checked ?? this.#ports.engineClient(instance);
      checked = null;
      return new VllmBridgeActor(client);
    };
    this.#bridges += 1;
    // Numbered, because the bridge of a removed instance of that name may still be ending.
    const name = `bridge-${this.#bridges}-${instance.name}`;
    const bridge = context.spawn(name, create, bridgeSpawnOptions);
    this.#instances.add(instance, bridge);
    try {
      this.#processes.add(instance, context);
    } catch (thrown) {
      void this.#dismiss(instance, context);
      throw thrown;
    }
  }

  /** Answers when the ranks of the instance are ready. */
  add(message: MessageOf<'add-instance'>, context: Context<SupervisorInbox>): void {
    const { instance } = message;
    try {
      this.join(instance, context);
    } catch (thrown) {
      context.fail(asFailure(thrown));
      return;
    }
    const onFailure = () => void this.#dismiss(instance, context);
    const caller = { instances: [instance.name], reply: context.deferReply(message), onFailure };
    this.#callers.add(caller, context);
  }

  /** Resolves when its rank processes have ended. Rejects with `UsageError`, and `BusyError` while it is being updated. */
  async remove(name: string, context: Context<SupervisorInbox>): Promise<void> {
    const instance = this.#instances.options(name);
    this.#checkIdle(name);
    const dismissed = this.#dismiss(instance, context);
    this.#callers.removed(name);
    await dismissed;
  }

  /** Resumes the engine of an instance, whatever weights it holds. Rejects with `UsageError`, `BusyError` and `EngineError`. */
  async resume(
    { instance: name }: MessageOf<'resume-instance'>,
    context: Context<SupervisorInbox>,
  ): Promise<Record<string, never>> {
    const [target] = this.#instances.targets([name]);
    this.#checkIdle(name);
    await this.#resume(target!, context);
    return {};
  }

  /**
   * Resumes the engine of an instance that an earlier supervisor has left paused; no update changes the instance meanwhile.
   * Rejects with `BusyError` and `EngineError`.
   */
  async resumeLeft(name: string, context: Context<SupervisorInbox>): Promise<void> {
    const [target] = this.#instances.targets([name]);
    const what = `resuming ${name}`;
    const facts = { kind: 'update', what, checkpoint: '', ranks: [], instances: [name] } as const;
    await this.#jobs.run(facts, () => this.#resume(target!, context));
  }

  /** The same once more for an engine that has paused after that, because its answer was still due. */
  async resumeLate(name: string, context: Context<SupervisorInbox>): Promise<void> {
    if (this.#jobs.isBusy(name) || !this.#instances.mayServe(name)) return;
    const [target] = this.#instances.targets([name]);
    const timeoutMilliseconds = deadlines.control;
    const options = { deadlineMilliseconds: 2 * timeoutMilliseconds };
    const asked = ask(context, target!.bridge, toBridge.awaitHealthy, { timeoutMilliseconds }, options);
    const isPaused = await asked.then((state) => state.isPaused).catch(() => null);
    // An update may have begun meanwhile, and left it paused because it holds parts of two versions.
    if (isPaused !== true || this.#jobs.isBusy(name) || !this.#instances.mayServe(name)) return;
    await this.resumeLeft(name, context);
  }

  async #resume({ name, bridge }: UpdateTarget, context: Context<SupervisorInbox>): Promise<void> {
    const timeoutMilliseconds = deadlines.engineResume;
    const options = { deadlineMilliseconds: timeoutMilliseconds + deadlines.control };
    await ask(context, bridge, toBridge.resume, { timeoutMilliseconds }, options);
    this.#instances.paused(name, false);
  }

  #checkIdle(name: string): void {
    if (this.#jobs.isBusy(name))
      throw new BusyError(`instance ${name} is being updated; retry when that has ended`);
  }

  #dismiss(instance: Instance, context: Context<SupervisorInbox>): Promise<void> {
    const bridge = this.#instances.remove(instance.name);
    if (bridge !== null) void context.stop(bridge);
    return this.#processes.remove(instance);
  }
}
