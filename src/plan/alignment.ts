/** Device copies are fastest, and engine workers require tensors, on multiples of so many bytes. */
export const ALIGNMENT = 256;

export function alignUp(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
}

export function alignDown(bytes: number): number {
  return Math.floor(bytes / ALIGNMENT) * ALIGNMENT;
}
