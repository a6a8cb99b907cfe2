import type { TestContext } from 'node:test';
import { HostNetwork } from '../../scenarios/host-network.ts';

/** Hosts of one network, gone after the test. */
export function testNetwork(test: TestContext, hosts: number): HostNetwork {
  const network = new HostNetwork(hosts);
  test.after(() => network.close());
  return network;
}
