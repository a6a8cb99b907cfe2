import type { EngineClient } from '../../engines/engine-client.ts';
import { asFailure, BusyError } from '../../errors.ts';
import { type Context, restartForEver, type SpawnOptions } from '../kernel/index.ts';
import { ask } from '../protocol/ask.ts';
import { type BridgeMessage, toBridge } from '../protocol/bridge.ts';
import { deadlines } from '../protocol/deadlines.ts';
import { type Instance, ranksOf } from '../protocol/instance.ts';
import type { UpdateTarget } from '../update/context.ts';
import { saysPaused } from '../update/engine-states.ts';
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
    await askResume(target!, context, deadlines.engineResume);
    this.#instances.runs(name);
    return {};
  }

  /**
   * Resumes the engine of an instance that was left paused, without noting it; no update changes the instance meanwhile.
   * Rejects with `BusyError` and `EngineError`.
   */
  async resumeLeft(name: string, context: Context<SupervisorInbox>): Promise<void> {
    const [target] = this.#instances.targets([name]);
    const what = `resuming ${name}`;
    const facts = { kind: 'update', what, checkpoint: '', ranks: [], instances: [name] } as const;
    await this.#jobs.run(facts, () => resumeOrAsk(target!, context, deadlines.resumeTry));
  }

  /** The same when no jobs run any more. */
  async resumeAtEnd(
    name: string,
    timeoutMilliseconds: number,
    context: Context<SupervisorInbox>,
  ): Promise<void> {
    await resumeOrAsk(this.#instances.targets([name])[0]!, context, timeoutMilliseconds);
  }

  /** Whether its engine says that it is paused; null if it does not say in time. */
  async saysPaused(
    name: string,
    timeoutMilliseconds: number,
    context: Context<SupervisorInbox>,
  ): Promise<boolean | null> {
    return saysPaused(context, this.#instances.targets([name])[0]!.bridge, timeoutMilliseconds);
  }

  /** Whether an update changes the instance, or its engine is being resumed. */
  isBusy(name: string): boolean {
    return this.#jobs.isBusy(name);
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

async function resumeOrAsk(
  target: UpdateTarget,
  context: Context<SupervisorInbox>,
  timeoutMilliseconds: number,
): Promise<void> {
  try {
    await askResume(target, context, timeoutMilliseconds);
  } catch (thrown) {
    // It may have heard it all the same, or have been started again.
    if ((await saysPaused(context, target.bridge, timeoutMilliseconds)) !== false) throw thrown;
  }
}

async function askResume(
  { bridge }: UpdateTarget,
  context: Context<SupervisorInbox>,
  timeoutMilliseconds: number,
): Promise<void> {
  const options = { deadlineMilliseconds: timeoutMilliseconds + deadlines.control };
  await ask(context, bridge, toBridge.resume, { timeoutMilliseconds }, options);
}
