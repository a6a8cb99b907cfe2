import { type Fleet, type FleetOptions, withFleet as withNamedFleet } from '../../scenarios/fleet.ts';

type TestFleetOptions = Pick<FleetOptions, 'instances'> &
  Partial<Pick<FleetOptions, 'bytes' | 'hosts' | 'onProgress' | 'listen'>>;

/** A fleet with a model that is small enough for tests. */
export function withFleet(options: TestFleetOptions, use: (fleet: Fleet) => Promise<void>): Promise<void> {
  return withNamedFleet({ bytes: 8 * 2 ** 20, name: 'test', ...options }, use);
}
