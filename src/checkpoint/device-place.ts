import { CheckpointError } from '../errors.ts';

/** Where the tensors of a file are that has their header alone (`isOnDevice` of file-identity.ts). */
export interface DevicePlace {
  /** UUID of the device: `GPU-…`, `MIG-…`, `HOST-…`. */
  readonly device: string;
  /** `DeviceBuffer.ipcHandle` of the memory, of which the first bytes are left free for the file's header. */
  readonly handle: Uint8Array;
}

/** By the metadata of the file's header, as python/weightcast/publisher_device.py writes it. Throws a `CheckpointError`. */
export function devicePlaceOf(metadata: ReadonlyMap<string, string>, file: string): DevicePlace {
  const device = metadata.get('device');
  const handle = metadata.get('handle');
  if (device === undefined || handle === undefined || !/^(?:[0-9a-f]{2}){1,256}$/.test(handle))
    throw new CheckpointError(`${file} does not say in which device's memory its tensors are`);
  return { device, handle: Buffer.from(handle, 'hex') };
}
