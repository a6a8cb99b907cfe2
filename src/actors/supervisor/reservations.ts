import { UsageError } from '../../errors.ts';
import { type ActorRef, sameActor } from '../kernel/index.ts';
import type { WriterMessage } from '../protocol/writer.ts';
import type { SegmentSet } from './checkpoint-ledger.ts';

/** A process that writes tensors into host memory, and keeps the segments mapped until they are released. */
export interface Writer {
  readonly ref: ActorRef<WriterMessage>;
  readonly host: string;
}

/** A set of segments that a writer fills. */
export interface Reservation {
  readonly set: SegmentSet;
  readonly writer: ActorRef<WriterMessage>;
  readonly reservedAt: number;
}

const writerLimit = 16;

/** The ledger of writers and of what each has reserved. It has no effects. */
export class Reservations {
  readonly #reservations = new Map<number, Reservation>();
  #writers: readonly Writer[] = [];
  #lastNumber: number;

  /** `firstNumber`: earlier supervisors of the cluster have used none beyond it. */
  constructor(firstNumber: number) {
    this.#lastNumber = firstNumber;
  }

  get writers(): readonly Writer[] {
    return this.#writers;
  }

  /** Returns whether it is a new one. Throws `UsageError` if there are too many. */
  addWriter(writer: Writer): boolean {
    if (this.#writers.some(({ ref }) => sameActor(ref, writer.ref))) return false;
    if (this.#writers.length >= writerLimit) {
      throw new UsageError(`${writerLimit} processes register tensors from memory, the maximum`);
    }
    this.#writers = [...this.#writers, writer];
    return true;
  }

  /** Returns the numbers of its reservations, which remain. */
  removeWriter(ref: ActorRef<WriterMessage>): number[] {
    this.#writers = this.#writers.filter((writer) => !sameActor(writer.ref, ref));
    return [...this.#reservations].flatMap(([number, { writer }]) => (sameActor(writer, ref) ? number : []));
  }

  /** Returns the reservation's number. */
  add(reservation: Reservation): number {
    this.#lastNumber += 1;
    this.#reservations.set(this.#lastNumber, reservation);
    return this.#lastNumber;
  }

  /** Removes a reservation; null if there is none with this number. */
  take(number: number): Reservation | null {
    const reserved = this.#reservations.get(number) ?? null;
    this.#reservations.delete(number);
    return reserved;
  }
}
