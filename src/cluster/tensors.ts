import { type ActorRef, sameActor } from '../actors/kernel/index.ts';
import type { CheckpointStatus } from '../actors/protocol/checkpoint-values.ts';
import { deadlines } from '../actors/protocol/deadlines.ts';
import { toSupervisor } from '../actors/protocol/supervisor.ts';
import { anyOf } from '../actors/protocol/table.ts';
import { toWriter, type WriterMessage } from '../actors/protocol/writer.ts';
import { WriterActor } from '../actors/writer.ts';
import { inOrderOfLayers, type NamedTensors, sizesOfTensors } from '../checkpoint/named-tensors.ts';
import { TensorWriter, type WriteJob } from '../checkpoint/tensor-writer.ts';
import { OutOfHostMemoryError, PeerLostError } from '../errors.ts';
import type { ClusterConnection } from './connection.ts';

const progressEveryMilliseconds = 100;

/** Registers tensors of this process: reserves host memory of the ranks, writes it, and registers what it wrote. */
export class ClusterTensors {
  readonly #connection: ClusterConnection;
  readonly #host: string;
  readonly #writer: TensorWriter;
  readonly #ref: ActorRef<WriterMessage>;

  /** `host`: the name of this host, as its ranks report it. */
  constructor(connection: ClusterConnection, host: string, threads: number) {
    this.#connection = connection;
    this.#host = host;
    const writer = new TensorWriter(threads);
    this.#writer = writer;
    this.#ref = connection.system.spawn(
      'writer',
      () => new WriterActor((segments) => writer.forget(segments)),
      { accepts: anyOf(toWriter) },
    );
    // What is not registered the next supervisor does not know, and its ranks remove.
    connection.onReplaced(async () => writer.close());
  }

  /** Rejects with `CheckpointError` naming the invalid tensor; then nothing is left in host memory. */
  async register(checkpoint: string, given: NamedTensors): Promise<CheckpointStatus> {
    const tensors = inOrderOfLayers(given);
    const bytes = sizesOfTensors(checkpoint, tensors);
    const { reservation, segments, reused } = await this.#connection.ask(
      toSupervisor.reserve,
      { checkpoint, host: this.#host, bytes, writer: this.#ref },
      deadlines.plan,
    );
    const { supervisor } = this.#connection;
    const write = () => this.#reporting(this.#writer.write(checkpoint, tensors, segments, reused));
    try {
      const manifest = await write().catch(async (error) => {
        if (error instanceof OutOfHostMemoryError && (await this.#releaseSpare())) return write();
        throw error;
      });
      if (!sameActor(this.#connection.supervisor, supervisor))
        throw new PeerLostError(`the supervisor died while ${checkpoint} was written: register it again`);
      const source = { kind: 'written', reservation, manifest } as const;
      return await this.#connection.ask(toSupervisor.register, { checkpoint, source }, deadlines.load);
    } catch (error) {
      // Another supervisor has no such reservation, and may have looked before they were there.
      if (!sameActor(this.#connection.supervisor, supervisor))
        this.#writer.remove(segments.map(({ path }) => path));
      // Does nothing if the supervisor has taken it back already.
      else
        this.#connection.system.tell(this.#connection.supervisor, {
          type: 'cancel-reservation',
          reservation,
        });
      throw error;
    }
  }

  close(): void {
    this.#writer.close();
  }

  /** Resolves with whether there was any. */
  async #releaseSpare(): Promise<boolean> {
    const { bytes } = await this.#connection.ask(
      toSupervisor.releaseSpare,
      {},
      deadlines.abort + deadlines.control,
    );
    return bytes > 0;
  }

  async #reporting(job: WriteJob): Promise<Uint8Array> {
    const report = () => {
      for (const progress of job.progress()) {
        this.#connection.system.tell(this.#connection.supervisor, {
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
