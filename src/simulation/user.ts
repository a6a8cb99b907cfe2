import { ask } from '../actors/conversation.ts';
import { deadlines } from '../actors/deadlines.ts';
import type { InstanceOptions } from '../actors/instance-options.ts';
import type { ActorRef } from '../actors/kernel/index.ts';
import { toSupervisor, type UpdateOptions, type UpdateReport } from '../actors/messages.ts';
import { asFailure, DeadlineError, type WeightcastError } from '../errors.ts';
import type { SimulatedProcess } from './process.ts';
import type { SimulatedWorld } from './world.ts';

export type Outcome<T> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly error: WeightcastError };

/** Throws what it failed with. */
export function resultOf<T>(outcome: Outcome<T>): T {
  if (!outcome.ok) throw outcome.error;
  return outcome.value;
}

export const usualOptions: UpdateOptions = {
  memoryFraction: 0.9,
  verify: true,
  keepCopy: true,
  timeoutMilliseconds: 60_000,
};

type Exchange = Parameters<typeof ask>[2];
type Answer<E extends Exchange> = Awaited<ReturnType<typeof ask<E>>>;

/** A process that uses the cluster as the class `Cluster` does, with its deadlines. */
export class SimulatedUser {
  readonly process: SimulatedProcess;
  readonly #world: SimulatedWorld;
  readonly #supervisor: ActorRef<never>;

  constructor(world: SimulatedWorld, node: string) {
    this.#world = world;
    this.process = world.startProcess(node, [world.supervisorNode], () => {});
    this.#supervisor = this.process.system.wellKnown(world.supervisorNode, 'supervisor');
  }

  awaitReady() {
    return this.#ask(toSupervisor.awaitReady, {}, deadlines.open);
  }

  status() {
    return this.#ask(toSupervisor.status, {}, deadlines.control);
  }

  register(checkpoint: string, path: string) {
    const source = { kind: 'path', path } as const;
    return this.#ask(toSupervisor.register, { checkpoint, source }, deadlines.load);
  }

  update(checkpoint: string, options: Partial<UpdateOptions> = {}): Promise<Outcome<UpdateReport>> {
    const all = { ...usualOptions, ...options };
    const deadline = all.timeoutMilliseconds + deadlines.engineHealthy + deadlines.open + deadlines.abort;
    return this.#ask(toSupervisor.update, { checkpoint, options: all }, deadline);
  }

  addInstance(instance: InstanceOptions) {
    return this.#ask(toSupervisor.addInstance, { instance }, deadlines.open);
  }

  removeInstance(instance: string) {
    return this.#ask(toSupervisor.removeInstance, { instance }, deadlines.open);
  }

  cancel(reason: string) {
    return this.#ask(toSupervisor.cancel, { reason }, deadlines.control);
  }

  async #ask<E extends Exchange>(
    exchange: E,
    fields: Parameters<typeof ask<E>>[3],
    deadlineMilliseconds: number,
  ): Promise<Outcome<Answer<E>>> {
    const { trace } = this.#world;
    const { awaitReady, addInstance } = toSupervisor;
    const { node, system } = this.process;
    trace.add(node, `asks ${exchange.type}`);
    try {
      const value = await ask(system, this.#supervisor, exchange, fields, { deadlineMilliseconds });
      trace.add(node, `${exchange.type} is done`);
      return { ok: true, value };
    } catch (thrown) {
      const error = asFailure(thrown);
      trace.add(node, `${exchange.type} failed: ${error.code} ${error.message}`);
      // Ready may never come; who waits for it gives up by themselves.
      const mayWait = ([awaitReady.type, addInstance.type] as string[]).includes(exchange.type);
      if (!mayWait && error instanceof DeadlineError && error.message.startsWith('supervisor#'))
        trace.violated(`${exchange.type} was not answered within ${deadlineMilliseconds} ms`);
      return { ok: false, error };
    }
  }
}
