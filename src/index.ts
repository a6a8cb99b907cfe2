export type { InstanceOptions } from './actors/instance-options.ts';
export type {
  CheckpointStatus,
  ClusterStatus,
  Progress,
  RankTimeline,
  UpdateReport,
} from './actors/messages.ts';
export type { NamedTensor, NamedTensors } from './checkpoint/named-tensors.ts';
export { Cluster, type ClusterOptions, type Source, type UpdateSettings } from './cluster.ts';
export * from './errors.ts';
export type { DeviceOptions } from './processes/devices.ts';
