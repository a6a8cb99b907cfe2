import type * as z from 'zod';
import type { ActorRef } from '../src/actors/kernel/index.ts';
import { ask, type Question } from '../src/actors/protocol/ask.ts';
import type { CheckpointStatus } from '../src/actors/protocol/checkpoint-values.ts';
import { deadlines } from '../src/actors/protocol/deadlines.ts';
import type { Instance } from '../src/actors/protocol/instance.ts';
import {
  type SupervisorExchange,
  type SupervisorMessage,
  toSupervisor,
} from '../src/actors/protocol/supervisor.ts';
import { anyOf } from '../src/actors/protocol/table.ts';
import type { UpdateReport, UpdateRequest } from '../src/actors/protocol/update-values.ts';
import { toWriter, type WriterMessage } from '../src/actors/protocol/writer.ts';
import { WriterActor } from '../src/actors/writer.ts';
import { dtypeName, encodeManifest, type Manifest, shapeOf } from '../src/checkpoint/manifest.ts';
import { describeTensors } from '../src/checkpoint/named-tensors.ts';
import { asFailure, DeadlineError, type WeightcastError } from '../src/errors.ts';
import type { SimulatedCheckpoint } from './checkpoint.ts';
import { elapse } from './clock.ts';
import type { SimulatedHost } from './host.ts';
import type { SimulatedProcess } from './process.ts';
import type { SimulatedWorld } from './world.ts';

export type Outcome<T> =
  | { readonly ok: true; readonly value: T }
  | { readonly ok: false; readonly error: WeightcastError };

/** The value of an outcome; throws its error. */
export function resultOf<T>(outcome: Outcome<T>): T {
  if (!outcome.ok) throw outcome.error;
  return outcome.value;
}

const defaultOptions: UpdateRequest = {
  memoryFraction: 0.9,
  verify: { arrived: true, installed: true },
  baseline: null,
  acceptUnproven: false,
  atomic: false,
  heal: false,
  keepCopy: true,
  parts: true,
  timeoutMilliseconds: 60_000,
};

/** Bytes per millisecond that a process copies into segments. */
const writeRate = 2e6;

/** A process that uses the cluster as the class `Cluster` does, with the same deadlines. */
export class SimulatedUser {
  readonly process: SimulatedProcess;
  readonly #world: SimulatedWorld;
  #writer: ActorRef<WriterMessage> | null = null;

  constructor(world: SimulatedWorld, node: string) {
    this.#world = world;
    this.process = world.startProcess(node, [world.supervisorNode], () => {});
  }

  get #supervisor(): ActorRef<SupervisorMessage> {
    return this.process.system.wellKnown(this.#world.supervisorNode, 'supervisor');
  }

  /** The actor that owns the memory of tensors which this process has registered; null before the first. */
  get writer(): ActorRef<WriterMessage> | null {
    return this.#writer;
  }

  awaitReady() {
    return this.#ask(toSupervisor.awaitReady, {}, deadlines.start + deadlines.control);
  }

  status() {
    return this.#ask(toSupervisor.status, {}, deadlines.control);
  }

  register(checkpoint: string, path: string) {
    const source = { kind: 'path', path } as const;
    return this.#ask(toSupervisor.register, { checkpoint, source }, deadlines.load);
  }

  /** Registers the tensors of a checkpoint as if they were in this process's memory. */
  async registerTensors(
    checkpoint: string,
    tensorSource: SimulatedCheckpoint,
    host: SimulatedHost = this.#world.hosts[0]!,
  ): Promise<Outcome<CheckpointStatus>> {
    const { index, digests } = tensorSource;
    const question = { checkpoint, host: host.name, bytes: index.bytes, writer: this.#startWriter() };
    const reserved = await this.#ask(toSupervisor.reserve, question, deadlines.plan);
    if (!reserved.ok) return reserved;
    const { incarnation } = this.#world;
    const { reservation, segments, reused } = reserved.value;
    const tensors = Object.fromEntries(
      index.names.map((name, row) => [name, { dtype: dtypeName(index, row), shape: shapeOf(index, row) }]),
    );
    const manifest = describeTensors(checkpoint, tensors, index.bytes, segments);
    await this.#writeTensors(tensorSource, manifest, host, reused);
    const found = BigUint64Array.from(index.names, (name) => digests.get(name)!);
    const encoded = encodeManifest({ ...manifest, digests: found });
    const source = { kind: 'written', reservation, manifest: encoded } as const;
    const registered = await this.#ask(toSupervisor.register, { checkpoint, source }, deadlines.load);
    // Another supervisor has no such reservation, and may have looked before they were there.
    if (!registered.ok && this.#world.incarnation !== incarnation)
      for (const { path } of segments) host.remove(path);
    else if (!registered.ok)
      await this.#ask(toSupervisor.cancelReservation, { reservation }, deadlines.control);
    return registered;
  }

  async #writeTensors(
    { path, index }: SimulatedCheckpoint,
    { segments, segmentOf, offsets }: Manifest,
    host: SimulatedHost,
    reused: boolean,
  ): Promise<void> {
    for (const [at, segment] of segments.entries()) {
      await elapse(this.process.clock, segment.bytes / writeRate);
      // A process that has ended writes nothing.
      if (!this.process.isAlive) return;
      host.write(segment.path, segment.bytes, reused, (contents) => {
        for (const [row, bytes] of index.bytes.entries()) {
          if (segmentOf[row] !== at) continue;
          const piece = { start: 0, end: bytes, source: path, from: index.offsets[row]! };
          contents.write(offsets[row]!, bytes, [piece]);
        }
      });
    }
  }

  unregister(checkpoint: string) {
    return this.#ask(toSupervisor.unregister, { checkpoint }, deadlines.control);
  }

  releaseSpare() {
    return this.#ask(toSupervisor.releaseSpare, {}, deadlines.abort + deadlines.control);
  }

  update(checkpoint: string, options: Partial<UpdateRequest> = {}): Promise<Outcome<UpdateReport>> {
    const all = { ...defaultOptions, ...options };
    const deadline = all.timeoutMilliseconds + deadlines.abort + deadlines.engineResume + deadlines.control;
    return this.#ask(toSupervisor.update, { checkpoint, options: all }, deadline);
  }

  async addInstance(instance: Instance) {
    const fields = { instance };
    const added = await this.#ask(toSupervisor.addInstance, fields, deadlines.start + deadlines.control);
    if (added.ok) this.#world.joined.set(instance.name, instance);
    return added;
  }

  async removeInstance(instance: string) {
    const removed = await this.#ask(toSupervisor.removeInstance, { instance }, deadlines.open);
    if (removed.ok) this.#world.joined.delete(instance);
    return removed;
  }

  cancel(reason: string) {
    return this.#ask(toSupervisor.cancel, { reason }, deadlines.control);
  }

  #startWriter(): ActorRef<WriterMessage> {
    this.#writer ??= this.process.system.spawn('writer', () => new WriterActor(() => {}), {
      accepts: anyOf(toWriter),
    });
    return this.#writer;
  }

  async #ask<E extends SupervisorExchange>(
    exchange: E,
    fields: Parameters<typeof ask<E>>[3],
    deadlineMilliseconds: number,
  ): Promise<Outcome<z.infer<E['reply']>>> {
    const { trace } = this.#world;
    const { node, system } = this.process;
    trace.add(node, `asks ${exchange.type}`);
    try {
      const supervisor = this.#supervisor as ActorRef<Question<E>>;
      const value = await ask(system, supervisor, exchange, fields, { deadlineMilliseconds });
      trace.add(node, `${exchange.type} is done`);
      return { ok: true, value };
    } catch (thrown) {
      const error = asFailure(thrown);
      trace.add(node, `${exchange.type} failed: ${error.code} ${error.message}`);
      if (error instanceof DeadlineError && error.message.startsWith('supervisor#'))
        trace.violated(`${exchange.type} was not answered within ${deadlineMilliseconds} ms`);
      return { ok: false, error };
    }
  }
}
