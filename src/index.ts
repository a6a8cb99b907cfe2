// Declarations speak of Buffer and NodeJS: who has no types of Node.js, or does not name them, need not know.
/// <reference types="node" preserve="true" />
export type { CheckpointStatus } from './actors/protocol/checkpoint-values.ts';
export type { InstanceOptions, WorkerOptions } from './actors/protocol/instance-options.ts';
export type { ClusterStatus, Progress } from './actors/protocol/status-values.ts';
export type { InstanceReport, Proofs, RankTimeline, UpdateReport } from './actors/protocol/update-values.ts';
export type { NamedTensor, NamedTensors } from './checkpoint/named-tensors.ts';
export type { Agreement, AnswerOptions, ExpectedAnswer } from './cluster/answer-options.ts';
export { Baseline, type BaselineOptions } from './cluster/baseline.ts';
export {
  Cluster,
  type RegisterOptions,
  type Source,
  type StopReport,
  type UpdateOptions,
} from './cluster/cluster.ts';
export type { ClusterOptions } from './cluster/options.ts';
export type { ProofOptions } from './cluster/proof-options.ts';
export type { SupervisorEvent } from './cluster/supervisor-fate.ts';
export type { EngineOptions } from './engines/engine-options.ts';
export * from './errors.ts';
export type { HostOptions } from './processes/configuration.ts';
export type { DeviceOptions } from './processes/devices.ts';
