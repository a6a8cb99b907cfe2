import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { isObject, parseJsonObject } from '../../src/checkpoint/strict-json.ts';

/** `num_key_value_heads` of the model's config.json, or of the text part of a multimodal model; null if unknown. */
export async function readKeyValueHeads(model: string): Promise<number | null> {
  const path = join(model, 'config.json');
  let json: Buffer;
  try {
    json = await readFile(path);
  } catch {
    // A checkpoint may be a bare file, or come without a configuration.
    return null;
  }
  const config = parseJsonObject(json, path);
  const text = config.get('text_config');
  const heads = config.get('num_key_value_heads') ?? (isObject(text) ? text.num_key_value_heads : undefined);
  return Number.isSafeInteger(heads) && (heads as number) > 0 ? (heads as number) : null;
}
