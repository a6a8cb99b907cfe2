import type { UpdateReport } from '../src/actors/protocol/update-values.ts';

/** Whether an update has updated all its instances, and proved that the checkpoint's bytes arrived at all their workers. */
export function allArrived({ instances }: Pick<UpdateReport, 'instances'>): boolean {
  return instances.every(({ outcome, proofs }) => outcome === 'updated' && proofs.arrived === 'holds');
}
