import { Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { ClusterStatus } from '../actors/protocol/status-values.ts';
import type { UpdateReport } from '../actors/protocol/update-values.ts';
import type { WireError } from '../errors.ts';
import { stageSeconds } from '../observe/timeline.ts';
import type { CheckpointView } from './kept-checkpoint.ts';
import type { InstanceView } from './kept-instances.ts';

const updateBuckets = [0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300];

const refusals = new Set(['WEIGHTCAST_BUSY', 'WEIGHTCAST_USAGE', 'WEIGHTCAST_NOT_READY']);

/** What gauges show, asked for when they are read. */
export interface Gauged {
  readonly instances: readonly InstanceView[];
  readonly checkpoints: readonly CheckpointView[];
  readonly ranks: ClusterStatus['ranks'];
  readonly spareBytes: number;
  readonly restarts: number;
}

/** Prometheus metrics of one daemon. */
export class Metrics {
  readonly #registry = new Registry();
  readonly #updateSeconds = this.#histogram(
    'weightcast_update_seconds',
    'Duration of updates: h2d, broadcast and reload as one rank was busy with them, on average; total from call to return.',
    ['stage', 'outcome'],
  );
  readonly #updates = this.#counter('weightcast_updates_total', 'Updates that have ended.', ['outcome']);
  readonly #bytes = this.#counter(
    'weightcast_bytes_total',
    'Bytes of updated checkpoints: device, into the memory of each device; network, from other hosts.',
    ['path'],
  );
  readonly #shortages = this.#counter(
    'weightcast_device_memory_shortages_total',
    'Ranks that went on serially in the middle of an update, because device memory ran short.',
    [],
  );
  readonly #version = this.#gauge(
    'weightcast_instance_version_info',
    '1 for the version that each instance serves.',
    ['instance', 'version'],
  );
  readonly #mixed = this.#gauge(
    'weightcast_instance_mixed',
    '1 if the instance is broken: it holds parts of several versions, or weights that are not right.',
    ['instance'],
  );
  readonly #paused = this.#gauge(
    'weightcast_instance_paused',
    '1 if an update has left the instance paused.',
    ['instance'],
  );
  readonly #ranks = this.#gauge('weightcast_ranks', 'Rank processes.', ['state']);
  readonly #memory = this.#gauge(
    'weightcast_host_memory_bytes',
    'Host memory: checkpoints that are loaded, and spare memory that is kept for later ones.',
    ['kind'],
  );
  readonly #restarts = this.#counter(
    'weightcast_restarts_total',
    'How often the supervisor process was started again.',
    [],
  );
  readonly #info = this.#gauge('weightcast_build_info', '1.', ['version']);
  readonly #gauged: () => Promise<Gauged>;

  constructor(version: string, gauged: () => Promise<Gauged>) {
    this.#gauged = gauged;
    this.#info.set({ version }, 1);
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  /** An update that left instances as they were is `partial`; one that conflicts with what runs, or asks for what is not there, is `refused`. */
  updateEnded(report: UpdateReport | null, error: WireError | null, seconds: number): void {
    const isWhole = report?.instances.every(({ outcome }) => outcome === 'updated');
    const failed = refusals.has(error?.code ?? '') ? 'refused' : 'failed';
    const outcome = report === null ? failed : isWhole ? 'succeeded' : 'partial';
    this.#updates.inc({ outcome });
    this.#updateSeconds.observe({ stage: 'total', outcome }, seconds);
    if (report === null) return;
    const ranks = Math.max(report.timelines.length, 1);
    for (const [stage, busy] of Object.entries(stageSeconds(report.timelines)))
      this.#updateSeconds.observe({ stage, outcome }, busy / ranks);
    const toDevices = report.links.reduce((sum, one) => sum + one.uploadedBytes + one.broadcastBytes, 0);
    this.#bytes.inc({ path: 'device' }, toDevices);
    this.#bytes.inc({ path: 'network' }, report.receivedBytes);
    this.#shortages.inc(report.serialFrom.length);
  }

  async text(): Promise<string> {
    this.#show(await this.#gauged());
    return this.#registry.metrics();
  }

  #show({ instances, checkpoints, ranks, spareBytes, restarts }: Gauged): void {
    for (const gauge of [this.#version, this.#mixed, this.#paused, this.#ranks]) gauge.reset();
    for (const { name, version, state, isPaused } of instances) {
      if (version !== null)
        this.#version.set({ instance: name, version: `${version.checkpoint}@${version.digest}` }, 1);
      this.#mixed.set({ instance: name }, state === 'broken' ? 1 : 0);
      this.#paused.set({ instance: name }, isPaused ? 1 : 0);
    }
    for (const state of ['starting', 'ready', 'down'] as const)
      this.#ranks.set({ state }, ranks.filter((rank) => rank.state === state).length);
    const loaded = checkpoints.filter(({ state }) => state === 'loaded');
    this.#memory.set(
      { kind: 'checkpoints' },
      loaded.reduce((sum, { bytes }) => sum + bytes, 0),
    );
    this.#memory.set({ kind: 'spare' }, spareBytes);
    this.#restarts.reset();
    this.#restarts.inc(restarts);
  }

  #counter(name: string, help: string, labelNames: string[]): Counter {
    return new Counter({ name, help, labelNames, registers: [this.#registry] });
  }

  #gauge(name: string, help: string, labelNames: string[]): Gauge {
    return new Gauge({ name, help, labelNames, registers: [this.#registry] });
  }

  #histogram(name: string, help: string, labelNames: string[]): Histogram {
    return new Histogram({ name, help, labelNames, buckets: updateBuckets, registers: [this.#registry] });
  }
}
