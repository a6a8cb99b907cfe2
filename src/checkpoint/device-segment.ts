import { CheckpointError } from '../errors.ts';
import type { Device, DeviceBuffer } from '../native-bridge/device.ts';
import { wholeTensors } from '../native-bridge/digest-parts.ts';
import type { Mapping } from '../native-bridge/memory.ts';
import { devicePlaceOf } from './device-place.ts';
import { segmentFile } from './file-identity.ts';
import { escapeControls } from './printable.ts';
import { headerLength, parseHeader } from './safetensors.ts';

/** Segments whose tensors another process has in the memory of this rank's device (`isOnDevice`). */

/** What reads them needs of the device. */
export type ReadingDevice = Pick<Device, 'open' | 'digest' | 'uuid'>;

/**
 * Opens the memory that a file's header names. Throws a `CheckpointError` for that of another device, or if it cannot be opened:
 * its process may have ended.
 */
export function openDeviceSegment(segment: string, file: Mapping, device: ReadingDevice): DeviceBuffer {
  const name = escapeControls(segmentFile(segment));
  const length = headerLength(file.read(0, 8), name, file.bytes);
  const { metadata, fileBytes } = parseHeader(file.read(8, length), name, null);
  const place = devicePlaceOf(metadata, name);
  if (place.device !== device.uuid)
    throw new CheckpointError(
      `${name} is in the memory of device ${place.device}, which a rank on ${device.uuid} cannot read`,
    );
  const memory = openMemory(name, place.handle, device);
  if (memory.bytes >= fileBytes) return memory;
  memory.free();
  throw new CheckpointError(`${name} needs ${fileBytes} bytes of device memory, and has ${memory.bytes}`);
}

function openMemory(name: string, handle: Uint8Array, device: ReadingDevice): DeviceBuffer {
  try {
    return device.open(handle);
  } catch (error) {
    throw new CheckpointError(
      `${name}: the memory of its tensors on ${device.uuid} cannot be opened: ${(error as Error).message}`,
      { cause: error },
    );
  }
}

/** Digests of tensors in such memory, by their places in the segment. */
export function digestOnDevice(
  device: ReadingDevice,
  memory: DeviceBuffer,
  offsets: Float64Array,
  bytes: Float64Array,
): Promise<BigUint64Array> {
  return device.digest(memory, wholeTensors(offsets, bytes));
}

/** For whoever reads host memory. */
export function notInHostMemory(segment: string): CheckpointError {
  return new CheckpointError(
    `${escapeControls(segmentFile(segment))} has its tensors in the memory of a device, where only ranks on that device can read them`,
  );
}
