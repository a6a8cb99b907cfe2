import { createServer } from 'node:http';
import type { LinkKind } from '../../src/engines/engine-client.ts';
import { protocolVersion } from '../../src/engines/worker-link/messages.ts';
import { Cluster } from '../../src/index.ts';
import { systemClock } from '../../src/native-bridge/clock.ts';
import type { Scope } from '../checkpoint/safetensors-files.ts';
import { listening } from '../listening.ts';
import { type Ended, PythonWorker, type WorkerFault } from './engine-worker.ts';

/** A worker's place. */
export interface WorkerPlace {
  readonly uuid: string;
  /** As torch names it: `cpu` on a host device. */
  readonly device: string;
}

export interface PythonEngineOptions {
  readonly link: LinkKind;
  readonly places: readonly WorkerPlace[];
  /** Path of checkpoint-engine's `worker.py`, for that link. */
  readonly original?: string | null;
  /** How our workers are embedded; `sglang` takes the weights once more after the first time if there is a draft model. */
  readonly form?: 'vllm' | 'sglang';
  readonly draftModel?: boolean;
  /** Whether each of our workers keeps its share of the tensors only. */
  readonly keepsShares?: boolean;
}

const routes = ['/health', '/ping', '/collective_rpc', '/update_weights_from_ipc'];

/** An engine with workers in Python, behind the routes of vLLM and of SGLang. */
export class PythonEngine {
  readonly workers: readonly PythonWorker[];
  endpoint = '';
  /** What the last worker does wrong in the next updates. */
  fault: WorkerFault | null = null;
  /** Called when all workers have been told to update. */
  onTold: () => void = () => {};
  /** Workers do not tell of each bucket. */
  quiet = false;
  /** Requests but for GET: route, and what of the body tells engines and calls apart. */
  readonly asked: unknown[] = [];
  /** When the last question for health and the last request to update came. */
  readonly times = { health: 0, update: 0 };
  /** What the workers said at the end of the last update. */
  ends: readonly Ended[] = [];
  readonly #options: PythonEngineOptions;

  private constructor(options: PythonEngineOptions, workers: readonly PythonWorker[]) {
    this.#options = options;
    this.workers = workers;
  }

  static async start(t: Scope, options: PythonEngineOptions): Promise<PythonEngine> {
    const { link, places, original = null, form = 'vllm', keepsShares = false } = options;
    const start = ({ uuid, device }: WorkerPlace, index: number) =>
      link === 'weightcast'
        ? PythonWorker.start(t, 'weightcast_worker.py', [device, form, '60', ...share(index)], {
            WEIGHTCAST_DEVICE_UUID: uuid,
          })
        : PythonWorker.start(t, 'original_worker.py', [original!, device]);
    const share = (index: number) => (keepsShares ? [`${index}/${places.length}`] : []);
    const engine = new PythonEngine(options, await Promise.all(places.map(start)));
    await engine.#listen(t);
    return engine;
  }

  async #listen(t: Scope): Promise<void> {
    const server = createServer(async (request, response) => {
      const chunks: Buffer[] = [];
      for await (const chunk of request) chunks.push(chunk as Buffer);
      const body = chunks.length === 0 ? {} : JSON.parse(Buffer.concat(chunks).toString());
      // An engine of few routes: it has a worker extension, no weight-transfer engine, and tells nothing of its state.
      if (!routes.includes(request.url!)) return void response.writeHead(404).end();
      if (request.method === 'GET') {
        this.times.health = systemClock.now();
        return void response.end();
      }
      if (body.method === 'weightcast_protocol') {
        if (this.#options.link !== 'weightcast') return void response.writeHead(500).end();
        return void response.end(JSON.stringify({ results: [{ protocol: protocolVersion }] }));
      }
      this.times.update = systemClock.now();
      this.asked.push([request.url, body.method, body.flush_cache]);
      await this.#update(body.zmq_handles ?? body.args[0]).then(
        () => response.end('{"success":true}'),
        (error: Error) => response.writeHead(500).end(error.message),
      );
    });
    this.endpoint = await listening(t, server);
  }

  async #update(links: Record<string, string>): Promise<void> {
    const { places, draftModel = false } = this.#options;
    const ends = this.workers.map((worker, index) => {
      const { uuid } = places[index]!;
      const isLast = index === this.workers.length - 1;
      worker.command({
        links: { [uuid]: links[uuid] },
        ...(draftModel && { again: true }),
        ...(this.quiet && { quiet: true }),
        ...(this.fault && isLast && { fault: this.fault }),
      });
      return worker.ended();
    });
    this.onTold();
    this.ends = await Promise.all(ends);
    for (const { ended, message } of this.ends) {
      if (ended !== 'installed') throw new Error(`${ended}: ${message}`);
    }
  }
}

/** A cluster with a rank for each engine, of one worker, all on the first GPU. */
export function startClusterOnOneGpu(engines: readonly PythonEngine[], link: LinkKind): Promise<Cluster> {
  return Cluster.start({
    ranks: engines.length,
    instances: engines.map(({ endpoint }, rank) => ({
      name: `engine-${rank}`,
      endpoint,
      ranks: [rank],
      link,
    })),
    devices: { kind: 'cuda', indices: engines.map(() => 0) },
  });
}
