import { createHash } from 'node:crypto';
import { type Cuts, WHOLE } from '../../src/checkpoint/cuts.ts';
import { shapeText } from '../../src/checkpoint/dtype.ts';
import type { ArrivedDigests, LinkTensor, LiveDigests } from '../../src/engines/worker-link/worker-link.ts';
import { EngineError, MemoryError, OutOfDeviceMemoryError } from '../../src/errors.ts';
import { digestPart } from '../../src/native-bridge/digest-parts.ts';
import type { HostDevice, HostDeviceBuffer } from '../../src/native-bridge/host-device.ts';
import type { Mapping, ThreadPool } from '../../src/native-bridge/memory.ts';
import { fillWithDummyWeights } from './dummy-weights.ts';
import { type HeldTensor, type ParameterLayout, shardBytes } from './parameter-layout.ts';

/** The parameters of one worker, in one buffer of its device: a large model has too many for a file each. */
export class WorkerParameters {
  readonly #layout: ParameterLayout;
  readonly #buffer: HostDeviceBuffer;
  readonly #pool: ThreadPool;

  private constructor(layout: ParameterLayout, buffer: HostDeviceBuffer, pool: ThreadPool) {
    this.#layout = layout;
    this.#buffer = buffer;
    this.#pool = pool;
  }

  /** Allocates the memory and fills it with dummy weights. Throws `MemoryError` if the device has too little. */
  static async allocate(options: {
    readonly layout: ParameterLayout;
    readonly device: HostDevice;
    readonly rank: number;
    readonly pool: ThreadPool;
  }): Promise<WorkerParameters> {
    const { layout, device, rank, pool } = options;
    const buffer = allocateBuffer(layout, device, rank);
    await fillWithDummyWeights(buffer.mapping, layout.parameters, rank, pool);
    return new WorkerParameters(layout, buffer, pool);
  }

  /** Bytes of all parameters including the gaps between them; at least one. */
  get bytes(): number {
    return this.#buffer.bytes;
  }

  read(offset: number, bytes: number): Buffer {
    return this.#buffer.mapping.read(offset, bytes);
  }

  /** Copies this worker's parts of tensors from the link buffer. Throws `EngineError` if the model has no such tensor. */
  async install(link: Mapping, tensors: readonly LinkTensor[]): Promise<void> {
    const rectangles = new Float64Array(tensors.length * 6);
    for (const [row, tensor] of tensors.entries()) {
      const { shard, offset } = this.#match(tensor);
      const { rowBytes, rows, ...whole } = shard.source;
      // A part is packed.
      const source = tensor.part === undefined ? whole : { offset: 0, pitch: rowBytes };
      rectangles.set(
        [tensor.offset + source.offset, offset, rowBytes, rows, source.pitch, rowBytes],
        row * 6,
      );
    }
    await this.#pool.copy(link, this.#buffer.mapping, rectangles);
  }

  /** Digests of this worker's parts of the tensors, computed from the parameters' memory. */
  async digest(names: readonly string[]): Promise<ArrivedDigests> {
    const places = new Float64Array(names.length * 7);
    const part = new Uint16Array(names.length);
    const parts = new Uint16Array(names.length);
    for (const [row, name] of names.entries()) {
      const { shard, offset, bytes: tensorBytes } = this.#layout.tensors.get(name)!;
      const { rowBytes, rows, offset: tensorOffset, pitch: tensorPitch } = shard.source;
      const place = { offset, rowBytes, rows, pitch: rowBytes, tensorOffset, tensorPitch, tensorBytes };
      places.set(digestPart(place), row * 7);
      part[row] = shard.part;
      parts[row] = shard.parts;
    }
    return { digests: await this.#pool.digest(this.#buffer.mapping, places), part, parts };
  }

  /** Which part of each tensor this worker keeps. */
  cuts(names: readonly string[]): Cuts {
    const cuts = names.map((name) => this.#layout.tensors.get(name)!.shard.cut);
    return {
      dims: Uint8Array.from(cuts, (cut) => cut?.dim ?? WHOLE),
      starts: Uint32Array.from(cuts, (cut) => cut?.start ?? 0),
      lengths: Uint32Array.from(cuts, (cut) => cut?.length ?? 1),
    };
  }

  /** What this worker holds, as it lies in its memory now. `place`: where it stands. */
  async live(place: LiveDigests['place']): Promise<LiveDigests> {
    const held = [...this.#layout.tensors.values()].filter(({ shard }) => shardBytes(shard) > 0);
    const { digests } = await this.digest(held.map(({ name }) => name));
    const names = held.map(({ name, dtype, shape }) => `${name} ${dtype}[${shape}]`);
    const layout = createHash('sha256').update(names.join('\n')).digest('hex');
    return { place, coverage: 'complete', layout, digests, names };
  }

  /** Changes the first byte of a tensor. */
  spoil(name: string): void {
    const { offset } = this.#layout.tensors.get(name)!;
    const [byte] = this.#buffer.mapping.read(offset, 1);
    this.#buffer.mapping.write(offset, Uint8Array.of(byte! ^ 1));
  }

  /**
   * Writes this worker's parts to their places in the full tensors; each part is written by one of the workers that hold
   * it. `offsets` has the start of each tensor in `destination`, in the order of the checkpoint.
   */
  async writeParts(destination: Mapping, offsets: Float64Array): Promise<void> {
    const rectangles: number[] = [];
    let row = 0;
    for (const { shard, offset } of this.#layout.tensors.values()) {
      const { source } = shard;
      const to = offsets[row]! + source.offset;
      row += 1;
      if (!shard.first || shardBytes(shard) === 0) continue;
      rectangles.push(offset, to, source.rowBytes, source.rows, source.rowBytes, source.pitch);
    }
    await this.#pool.copy(this.#buffer.mapping, destination, Float64Array.from(rectangles));
  }

  free(): void {
    this.#buffer.free();
  }

  #match({ name, dtype, shape, part }: LinkTensor): HeldTensor {
    const held = this.#layout.tensors.get(name);
    if (held === undefined) throw new EngineError(`the model has no tensor ${name}`);
    const sameShape =
      held.shape.length === shape.length && held.shape.every((size, axis) => size === shape[axis]);
    const { cut } = held.shard;
    const isOwn =
      cut !== null && [cut.dim, cut.start, cut.length].every((number, at) => number === part?.[at]);
    if (part !== undefined && !isOwn)
      throw new EngineError(`the part ${part} of tensor ${name} is not the model's`);
    if (held.dtype === dtype && sameShape) return held;
    throw new EngineError(
      `tensor ${name} is ${held.dtype} ${shapeText(held.shape)} in the model, not ${dtype} ${shapeText(shape)}`,
    );
  }
}

function allocateBuffer(layout: ParameterLayout, device: HostDevice, rank: number): HostDeviceBuffer {
  const { free } = device.memory();
  try {
    return device.allocate(Math.max(layout.bytes, 1));
  } catch (error) {
    if (!(error instanceof OutOfDeviceMemoryError)) throw error;
    const parameter =
      layout.parameters.find(({ offset, bytes }) => offset + bytes > free) ?? layout.parameters[0]!;
    throw new MemoryError(
      `parameter ${parameter.name} (${parameter.bytes} bytes) does not fit into device ${device.uuid} of rank ${rank}: ` +
        `its model needs ${layout.bytes} bytes, ${free} are free`,
    );
  }
}
