import type * as z from 'zod';
import { describe, NativeError, OutOfHostMemoryError, type WeightcastError } from '../../errors.ts';
import type { Logger } from '../../ports.ts';
import {
  type Remembered,
  type RememberedCheckpoint,
  remembered,
  rememberedCheckpoint,
} from '../protocol/remembered-values.ts';
import type { SupervisorMemory } from './ports.ts';

/** More than a supervisor uses up in its life: its successor's numbers begin there. */
const numbersOfOne = 1_000_000;

const nothing: Remembered = {
  instances: [],
  healing: [],
  installs: { layouts: {}, held: [] },
  epoch: 0,
  directories: {},
  spare: [],
  positions: [],
};

/** A registered checkpoint as it is to be remembered. It is written again when `registered` is another object, or exported. */
export type CheckpointRecord = Pick<RememberedCheckpoint, 'created' | 'isReusable' | 'isExported'> & {
  readonly registered: { readonly status: { readonly checkpoint: string } };
};

/**
 * What has to be known of the cluster when this supervisor's process is dead. Everything is written before anybody hears of
 * it. What cannot be written is removed, unless it is to be kept: the successor then does not know it, and knows nothing that
 * is wrong.
 */
export class LastingMemory {
  readonly #memory: SupervisorMemory;
  /** What the predecessor has left. */
  readonly recalled: Remembered;
  readonly checkpoints: readonly RememberedCheckpoint[];
  /** By name of the checkpoint, what was written of it under which document. */
  readonly #written = new Map<string, { readonly record: CheckpointRecord; readonly document: string }>();
  #documents: number;
  /** What is being written of large documents. */
  #large: Promise<void> = Promise.resolve();
  #log: Logger | null = null;

  constructor(memory: SupervisorMemory) {
    this.#memory = memory;
    this.#documents = this.firstNumber;
    const documents = memory.recall();
    this.recalled = Object.fromEntries(
      Object.entries(remembered).map(([name, form]) => [
        name,
        parse(form as z.ZodType, documents.get(name)) ?? nothing[name as keyof Remembered],
      ]),
    ) as Remembered;
    const found = new Map<string, RememberedCheckpoint>();
    for (const [document, value] of [...documents].sort(byNumber)) {
      const record = document.startsWith('checkpoint-') ? parse(rememberedCheckpoint, value) : null;
      if (record === null) continue;
      const { checkpoint } = record.registered.status;
      // The predecessor died between the two steps of a replacement.
      const older = this.#written.get(checkpoint)?.document;
      if (older !== undefined) memory.remove(older);
      found.set(checkpoint, record);
      this.#written.set(checkpoint, { record, document });
    }
    this.checkpoints = [...found.values()];
  }

  /** Numbers of this supervisor's segments, communicators and documents are above it, those of its predecessors below. */
  get firstNumber(): number {
    return this.#memory.incarnation * numbersOfOne;
  }

  /** Whether another supervisor of this cluster was there before. */
  get isSuccessor(): boolean {
    return this.#memory.incarnation > 0;
  }

  started(log: Logger): void {
    this.#log = log;
  }

  write<K extends keyof Remembered>(name: K, value: Remembered[K]): void {
    this.#write(name, value);
  }

  /** The same of what may be large: resolves when it is written, or removed because it could not be. */
  writeLarge<K extends keyof Remembered>(name: K, value: Remembered[K]): Promise<void> {
    // One after the other: a later one replaces what an earlier one has written.
    this.#large = this.#large.then(async () => {
      try {
        await this.#memory.writeLarge(name, value);
      } catch (thrown) {
        this.#unwritten(name, thrown);
      }
    });
    return this.#large;
  }

  /**
   * The same for what a successor must not be without: what cannot be written leaves what was written before. Returns why it
   * could not be; null if it was.
   */
  keep<K extends keyof Remembered>(name: K, value: Remembered[K]): WeightcastError | null {
    try {
      this.#memory.write(name, value);
      return null;
    } catch (thrown) {
      this.#log?.error({ document: name, error: describe(thrown) }, 'another supervisor would not know this');
      return asRefusal(thrown);
    }
  }

  /** `records`: all that are registered. */
  writeCheckpoints(records: readonly CheckpointRecord[]): void {
    const names = new Set(records.map(({ registered }) => registered.status.checkpoint));
    for (const record of records) {
      const { checkpoint } = record.registered.status;
      const before = this.#written.get(checkpoint);
      if (before !== undefined && isSame(before.record, record)) continue;
      this.#documents += 1;
      const document = `checkpoint-${this.#documents}`;
      this.#write(document, record);
      this.#written.set(checkpoint, { record, document });
      if (before !== undefined) this.#memory.remove(before.document);
    }
    for (const [checkpoint, { document }] of this.#written) {
      if (names.has(checkpoint)) continue;
      this.#memory.remove(document);
      this.#written.delete(checkpoint);
    }
  }

  #write(document: string, value: unknown): void {
    try {
      this.#memory.write(document, value);
    } catch (thrown) {
      this.#unwritten(document, thrown);
    }
  }

  #unwritten(document: string, why: unknown): void {
    this.#memory.remove(document);
    this.#log?.error({ document, error: describe(why) }, 'another supervisor would not know this');
  }
}

function asRefusal(thrown: unknown): WeightcastError {
  const { code } = thrown as NodeJS.ErrnoException;
  const why = describe(thrown);
  return code === 'ENOSPC' ? new OutOfHostMemoryError(`/dev/shm is full: ${why}`) : new NativeError(why);
}

function isSame(one: CheckpointRecord, other: CheckpointRecord): boolean {
  return (
    one.registered === other.registered &&
    one.isExported === other.isExported &&
    one.isReusable === other.isReusable
  );
}

function byNumber([one]: readonly [string, unknown], [other]: readonly [string, unknown]): number {
  return numberOf(one) - numberOf(other);
}

function numberOf(document: string): number {
  return Number(document.slice(document.lastIndexOf('-') + 1)) || 0;
}

/** Null for what is missing. */
function parse<T>(form: z.ZodType<T>, value: unknown): T | null {
  return form.safeParse(value).data ?? null;
}
