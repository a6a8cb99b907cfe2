export type { InstanceOptions } from './actors/protocol/instance-options.ts';
export type {
  CheckpointStatus,
  ClusterStatus,
  Progress,
  RankTimeline,
  UpdateReport,
} from './actors/protocol/values.ts';
export type { NamedTensor, NamedTensors } from './checkpoint/named-tensors.ts';
export { Cluster, type Source, type UpdateSettings } from './cluster/cluster.ts';
export type { ClusterOptions } from './cluster/options.ts';
export * from './errors.ts';
export type { HostOptions } from './processes/configuration.ts';
export type { DeviceOptions } from './processes/devices.ts';
