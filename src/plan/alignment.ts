/** Bytes. Device copies are fastest on multiples of it, and engine workers require tensors to begin on them. */
export const ALIGNMENT = 256;

export function alignUp(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
}

export function alignDown(bytes: number): number {
  return Math.floor(bytes / ALIGNMENT) * ALIGNMENT;
}
