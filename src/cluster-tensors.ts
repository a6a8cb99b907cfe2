import type { ask } from './actors/conversation.ts';
import { deadlines } from './actors/deadlines.ts';
import type { ActorRef, ActorSystem } from './actors/kernel/index.ts';
import {
  anyOf,
  type CheckpointStatus,
  type SupervisorMessage,
  toSupervisor,
  toWriter,
  type WriterMessage,
} from './actors/messages.ts';
import { WriterActor } from './actors/writer.ts';
import { type NamedTensors, sizesOfTensors } from './checkpoint/named-tensors.ts';
import { TensorWriter, type WriteJob } from './checkpoint/tensor-writer.ts';
import { OutOfHostMemoryError } from './errors.ts';

type Exchange = Parameters<typeof ask>[2];

/** Asks the supervisor. */
export type AskSupervisor = <E extends Exchange>(
  exchange: E,
  fields: Parameters<typeof ask<E>>[3],
  deadlineMilliseconds: number,
) => ReturnType<typeof ask<E>>;

const progressEveryMilliseconds = 100;

/** Tensors of this process on their way into the host memory of the ranks: reserved, written, registered. */
export class ClusterTensors {
  readonly #system: ActorSystem;
  readonly #supervisor: ActorRef<SupervisorMessage>;
  readonly #ask: AskSupervisor;
  readonly #host: string;
  readonly #writer: TensorWriter;
  readonly #ref: ActorRef<WriterMessage>;

  constructor(options: {
    readonly system: ActorSystem;
    readonly supervisor: ActorRef<SupervisorMessage>;
    readonly ask: AskSupervisor;
    /** The name of this host, as its ranks have it. */
    readonly host: string;
    readonly threads: number;
  }) {
    const { system, supervisor, host, threads } = options;
    this.#system = system;
    this.#supervisor = supervisor;
    this.#ask = options.ask;
    this.#host = host;
    const writer = new TensorWriter(threads);
    this.#writer = writer;
    this.#ref = system.spawn('writer', () => new WriterActor((segments) => writer.forget(segments)), {
      accepts: anyOf(toWriter),
    });
  }

  /** Rejects with `CheckpointError` naming the tensor that is wrong; then nothing is left behind. */
  async register(checkpoint: string, tensors: NamedTensors): Promise<CheckpointStatus> {
    const bytes = sizesOfTensors(checkpoint, tensors);
    const { reservation, segments, isThere } = await this.#ask(
      toSupervisor.reserve,
      { checkpoint, host: this.#host, bytes, writer: this.#ref },
      deadlines.plan,
    );
    const write = () => this.#reporting(this.#writer.write(checkpoint, tensors, segments, isThere));
    try {
      const manifest = await write().catch(async (error) => {
        if (error instanceof OutOfHostMemoryError && (await this.#releaseSpare())) return write();
        throw error;
      });
      const source = { kind: 'written', reservation, manifest } as const;
      return await this.#ask(toSupervisor.register, { checkpoint, source }, deadlines.load);
    } catch (error) {
      // Unless the supervisor has taken it back already.
      this.#system.tell(this.#supervisor, { type: 'cancel-reservation', reservation });
      throw error;
    }
  }

  close(): void {
    this.#writer.close();
  }

  /** Whether there was any. */
  async #releaseSpare(): Promise<boolean> {
    const { bytes } = await this.#ask(toSupervisor.releaseSpare, {}, deadlines.abort + deadlines.control);
    return bytes > 0;
  }

  async #reporting(job: WriteJob): Promise<Uint8Array> {
    const report = () => {
      for (const progress of job.progress()) {
        this.#system.tell(this.#supervisor, {
          type: 'progress',
          progress: { activity: 'load', ...progress },
        });
      }
    };
    const timer = setInterval(report, progressEveryMilliseconds);
    try {
      return await job.manifest;
    } finally {
      clearInterval(timer);
      report();
    }
  }
}
