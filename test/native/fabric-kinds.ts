import type { FabricKind } from '../../src/native-bridge/fabric.ts';

/** Which ways bytes may come the tests of the fabric try: all that every machine has, unless they are told. */
export const kinds = (process.env.WEIGHTCAST_TEST_FABRICS ?? 'shm,tcp').split(',') as FabricKind[];
