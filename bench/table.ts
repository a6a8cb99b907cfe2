/**
 * `npm run bench:table`: what updates of the four models of checkpoint-engine's table would take on its machines, simulated
 * over plans of the real planner, beside the floors that the links set.
 */
import type { Manifest } from '../src/checkpoint/manifest.ts';
import { watchedReads } from '../src/plan/parts-choice.ts';
import { type Figure, writeReport } from './report.ts';
import { calibrations } from './table/calibration.ts';
import { type GroupedQueryModel, groupedQueryTensors } from './table/grouped-query-models.ts';
import { type PipelineInput, streamMilliseconds, workerMilliseconds } from './table/pipeline.ts';
import {
  announcedByExpert,
  type Member,
  membersOf,
  type PlannedJoin,
  planCluster,
  planJoin,
  planShare,
} from './table/planned.ts';
import { type Machine, machines, pinning, receivingRate, reserving, speedsOf } from './table/speeds.ts';
import { bytesOfTensor, type ListedTensor, type ModelName, tensorList } from './tensor-lists.ts';

interface Row {
  readonly model: string;
  readonly tensors: readonly ListedTensor[];
  readonly machine: Machine;
  readonly ranks: number;
  /** Ranks of an instance. */
  readonly parallel: number;
  /** Of a layer. */
  readonly experts: number;
  /** Seconds of checkpoint-engine: gather, broadcast, P2P. */
  readonly original: readonly [number, number, number] | null;
}

const listed = (model: ModelName) => tensorList(model);
const grouped = (model: GroupedQueryModel) => groupedQueryTensors(model);
const { h800, h20 } = machines;
const kimi = {
  model: 'Kimi-K2 FP8',
  tensors: listed('kimi-k2-fp8'),
  machine: h20,
  parallel: 16,
  experts: 384,
};
const deepSeek = {
  model: 'DeepSeek-V3.1 FP8',
  tensors: listed('deepseek-v3.1-fp8'),
  machine: h20,
  parallel: 16,
  experts: 256,
};

const rows: readonly Row[] = [
  {
    model: 'GLM-4.5-Air BF16',
    tensors: grouped('glm-4.5-air-bf16'),
    machine: h800,
    ranks: 8,
    parallel: 8,
    experts: 128,
    original: [0.12, 3.47, 4.12],
  },
  {
    model: 'Qwen3-235B-A22B BF16',
    tensors: grouped('qwen3-235b-a22b-bf16'),
    machine: h800,
    ranks: 8,
    parallel: 8,
    experts: 128,
    original: [0.33, 6.22, 7.1],
  },
  { ...deepSeek, ranks: 16, original: [1.17, 10.19, 11.8] },
  { ...kimi, ranks: 16, original: [1.33, 14.36, 17.49] },
  { ...deepSeek, ranks: 256, original: [0.8, 11.33, 11.81] },
  { ...kimi, ranks: 256, original: [1.22, 16.04, 16.75] },
  { ...kimi, ranks: 1_024, original: null },
];

interface Simulated {
  readonly row: Row;
  readonly bytes: number;
  readonly buckets: number;
  /** Milliseconds. */
  readonly gather: number;
  readonly planning: number;
  readonly broadcast: number;
  readonly broadcastFloor: number;
  /** What an engine worker does of it. */
  readonly workers: number;
  /** With `--enable-expert-parallel`, from the second update on; null on one host, where parts are sent then. */
  readonly byExpert: { readonly update: number; readonly workers: number } | null;
  /** Null where hosts hold shares: parts are then not sent. */
  readonly parts: number | null;
  readonly partsFloor: number;
  readonly join: number;
  readonly joinMemory: number;
  readonly joinFloor: number;
}

function simulate(row: Row): Simulated {
  const { tensors, machine, ranks, parallel } = row;
  const members = membersOf(ranks, machine.gpusPerHost);
  const speeds = speedsOf(machine);
  const { manifest, plan, gather, planning } = planCluster(tensors, members);
  const bytes = tensors.reduce((sum, tensor) => sum + bytesOfTensor(tensor), 0);
  const hostOf = hostsOf(members);
  const broadcast = streamMilliseconds({ plan, speeds, hostOf }) + speeds.fixed;
  const isOneHost = ranks <= machine.gpusPerHost;
  const share = isOneHost
    ? planShare(manifest, members, parallel, { ...speeds, tensor: speeds.workerTensor })
    : null;
  const watched = { ...speeds, workerTensor: speeds.workerTensor * watchedReads };
  const parts = share && streamMilliseconds({ plan: share, speeds: watched, hostOf }) + speeds.fixed;
  const byExpert = isOneHost ? null : updateByExpert(row, manifest, { plan, speeds: watched, hostOf });
  const joining = membersOf(parallel, machine.gpusPerHost, ranks);
  const joined = planJoin(manifest, members, joining);
  const joinMemory = Math.max(...joined.received.values()) * (1 / reserving + 1 / pinning);
  const arrivals = arrivalsOf(joined, receivingRate(machine));
  const streamed = streamMilliseconds({ plan: joined.plan, speeds, hostOf: hostsOf(joining), arrivals });
  return {
    row,
    bytes,
    buckets: plan.owners.length,
    gather,
    planning,
    broadcast,
    broadcastFloor: broadcastFloor(bytes, ranks, machine),
    workers: workerMilliseconds(plan, speeds),
    byExpert,
    parts,
    partsFloor: partsFloor(bytes, ranks, parallel, machine),
    join: joinMemory + streamed + speeds.fixed,
    joinMemory,
    joinFloor: joinFloor(bytes, parallel, machine),
  };
}

/** Workers are given only what they keep something of, and what they read is watched. */
function updateByExpert({ parallel, experts }: Row, manifest: Manifest, input: PipelineInput) {
  const announced = announcedByExpert(manifest, parallel, experts);
  const announcedTo = (rank: number) => announced[rank % parallel]!;
  const work = announced.map((own) => workerMilliseconds(input.plan, input.speeds, own));
  const update = streamMilliseconds({ ...input, announcedTo }) + input.speeds.fixed;
  return { update, workers: Math.max(...work) };
}

function hostsOf(members: readonly Member[]): (rank: number) => string {
  const hosts = new Map(members.map(({ rank, host }) => [rank, host]));
  return (rank) => hosts.get(rank)!;
}

/** Each rank receives what it feeds in the order in which it does. */
function arrivalsOf({ plan }: PlannedJoin, rate: number): Float64Array {
  const received = new Map<number, number>();
  return Float64Array.from(plan.owners, (owner, bucket) => {
    const bytes = (received.get(owner) ?? 0) + plan.bucketBytes[bucket]!;
    received.set(owner, bytes);
    return bytes / rate;
  });
}

const perMillisecond = 1e6;

/** Every byte is uploaded once, comes to each other host once, and to every GPU that has not uploaded it. */
function broadcastFloor(bytes: number, ranks: number, { pcie, nvlink, nic, gpusPerHost }: Machine): number {
  const hosts = Math.ceil(ranks / gpusPerHost);
  const upload = bytes / ranks / pcie;
  const network = (bytes * (hosts - 1)) / hosts / (nic * gpusPerHost);
  const links = (bytes * (ranks - 1)) / ranks / nvlink;
  return Math.max(upload, network, links) / perMillisecond;
}

/** If a GPU got only the part that it keeps: what no other rank of its place has uploaded comes over its NIC. */
function partsFloor(bytes: number, ranks: number, parallel: number, { pcie, nic }: Machine): number {
  const network = (bytes / parallel) * (1 - parallel / ranks);
  return Math.max(bytes / ranks / pcie, network / nic) / perMillisecond;
}

/** Without the time for making the memory. Host memory takes the bytes in and gives them out. */
function joinFloor(
  bytes: number,
  joining: number,
  { pcie, nvlink, nic, gpusPerHost, hostMemory }: Machine,
): number {
  const hosts = Math.ceil(joining / gpusPerHost);
  const incoming = bytes / joining / nic + (bytes * (hosts - 1)) / hosts / (nic * gpusPerHost);
  const memory = (2 * bytes) / hosts / hostMemory;
  return Math.max(incoming, bytes / joining / pcie, bytes / nvlink, memory) / perMillisecond;
}

const seconds = (milliseconds: number, digits = 2) => (milliseconds / 1_000).toFixed(digits);

function tableOf(simulated: readonly Simulated[]): string {
  const header = [
    'model',
    'GPUs',
    'tensors',
    'GB',
    'buckets',
    'gather',
    'plan',
    'update',
    'floor',
    'workers',
    'experts apart',
    'workers',
    'by parts',
    'floor of parts',
    'join',
    'of which memory',
    'floor',
    "checkpoint-engine's gather, broadcast, P2P",
  ];
  const lines = simulated.map(({ row, ...one }) => [
    row.model,
    `${row.ranks} ${row.machine.name}, TP${row.parallel}`,
    String(row.tensors.length),
    (one.bytes / 1e9).toFixed(0),
    String(one.buckets),
    seconds(one.gather, 3),
    seconds(one.planning, 3),
    seconds(one.broadcast),
    seconds(one.broadcastFloor),
    seconds(one.workers),
    one.byExpert === null ? '' : seconds(one.byExpert.update),
    one.byExpert === null ? '' : seconds(one.byExpert.workers),
    one.parts === null ? '' : seconds(one.parts),
    seconds(one.partsFloor),
    seconds(one.join),
    seconds(one.joinMemory),
    seconds(one.joinFloor),
    row.original?.map((value) => value.toFixed(2)).join(', ') ?? '',
  ]);
  return [header, header.map(() => '---'), ...lines].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}

/** The model may be wrong by so much against runs that exist. */
const mostError = 0.1;
/** What is not hidden behind the longest of the stages is to be less than that. */
const mostOfFloor = 1.3;

const calibrated = calibrations();
const simulated = rows.map(simulate);
const figures: Figure[] = [
  ...calibrated.flatMap(({ name, simulated: model, measured }) => [
    { name: `${name}: measured`, value: measured, unit: 'ms' },
    { name: `${name}: simulated`, value: model, unit: 'ms' },
    { name: `${name}: error`, value: Math.abs(model / measured - 1), unit: '', atMost: mostError },
  ]),
  ...simulated.flatMap(({ row, broadcast, broadcastFloor: floor, workers }) => {
    const name = `${row.model}, ${row.ranks} GPUs`;
    const bound = row.original === null ? { atMost: mostOfFloor } : {};
    return [
      { name: `${name}: update / floor`, value: broadcast / floor, unit: '', ...bound },
      {
        name: `${name}: update / the longer of floor and workers`,
        value: broadcast / Math.max(floor, workers),
        unit: '',
        ...bound,
      },
    ];
  }),
  ...simulated.flatMap(({ row, byExpert, broadcastFloor: floor }) => {
    if (byExpert === null) return [];
    return {
      name: `${row.model}, ${row.ranks} GPUs, experts apart: update / floor`,
      value: byExpert.update / floor,
      unit: '',
      ...(row.original === null ? { atMost: mostOfFloor } : {}),
    };
  }),
  ...simulated.flatMap(({ row, parts, partsFloor: floor }) => {
    if (parts === null) return [];
    return {
      name: `${row.model}, ${row.ranks} GPUs: by parts / floor of parts`,
      value: parts / floor,
      unit: '',
    };
  }),
];
const machineLines = Object.values(machines).map(({ name, pcie, nvlink, nic, gpusPerHost, hostMemory }) => {
  return `- ${name}: ${gpusPerHost} GPUs a host, ${pcie} GB/s PCIe and ${nvlink} GB/s NVLink each way of a GPU, one NIC of ${nic} GB/s for each, ${hostMemory} GB/s of host memory`;
});
writeReport({
  name: 'table',
  title: "checkpoint-engine's table, simulated",
  command: 'npm run bench:table',
  method:
    'No GPU takes part. Names, dtypes and shapes of all tensors come from the published architectures (bench/tensor-lists.ts, ' +
    'bench/table/grouped-query-models.ts); the planner itself deals them out and plans, on this machine, whose processor time for ' +
    'gathering and planning is measured. Uploads, broadcasts and workers are simulated bucket by bucket and rank by rank ' +
    '(bench/table/pipeline.ts), with what was measured on one and two GPUs (bench/table/speeds.ts) and with the links ' +
    'below, which are assumed. First the error of the model against the runs that exist.',
  figures,
  appendix: [
    '## The table',
    '',
    'Seconds. `gather`: the shares of all ranks become one manifest with its digests; `plan`: of a first update; both measured ' +
      'here, in processor time. `update`: whole tensors to every GPU, with the fixed part of an update of one host, without post-hooks and pauses of the ' +
      'engines. `experts apart`: the same, from the second update on, of a vLLM with `--enable-expert-parallel`, whose workers keep the ' +
      'experts of a layer among them: a rank announces to its worker only what this has said that it keeps something of. On one host ' +
      'parts are sent then. `join`: one more instance, without a byte of the checkpoint, from all others; half of it or more is reserving and pinning ' +
      "its host memory. `by parts`: each GPU gets only what it keeps, by the rules of vLLM's parallel layers; on one host, whose memory has " +
      'all bytes: over several hosts weightcast does not do that yet. The memory that a worker fills to lay parts into tensors of the ' +
      'whole shape is not in it. Floors: what the links alone would need; of parts: over the network too. `workers`: what a worker takes for ' +
      'its buckets and tensors if it never waits, as long as the update where that is longer than the floor: of parts, and of what is announced ' +
      'where experts are apart, it takes 1.6 times as long for a tensor, since it watches what its model reads. ' +
      "checkpoint-engine's figures are its README's, from its own machines, with vLLM's real loader and post-hook: what " +
      'vLLM does with a tensor is 26 µs here, a stub of a model, and more there.',
    '',
    tableOf(simulated),
    '',
    '## The machines, assumed',
    '',
    ...machineLines,
    '',
    'Beyond two GPUs nothing of this was run: NCCL over eight GPUs and over hosts, its ring, and host memory under eight uploads ' +
      'may be slower. What workers do for each bucket and each tensor keeps updates from their floor here, with a stub of a model; ' +
      "vLLM's own loader takes some 0.1 to 0.3 ms of a processor for each tensor (engine-loader.md), which for 139,583 of them is " +
      'longer than anything in this table, for weightcast as for every other way into the same engine.',
  ].join('\n'),
});
