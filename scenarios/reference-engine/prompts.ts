import type { CompletionRequest } from './requests.ts';

/** A prompt: text, or the numbers of its tokens. */
export type Prompt = string | readonly number[];

const firstOffset = 0x811c_9dc5;
const prime = 0x0100_0193;
/** As many tokens as Qwen3 has. */
const tokenCount = 151_936;

export function promptsIn(prompt: CompletionRequest['prompt']): readonly Prompt[] {
  if (typeof prompt === 'string') return [prompt];
  const isOne = typeof prompt[0] === 'number';
  return isOne ? [prompt as number[]] : (prompt as readonly Prompt[]);
}

export function textOf(prompt: Prompt): string {
  return typeof prompt === 'string' ? prompt : prompt.join(' ');
}

/** Every word is a token, and its number the FNV-1a hash of the word. */
export function tokensOf(text: string): number[] {
  return (text.match(/\S+/g) ?? []).map((word) => {
    let hash = firstOffset;
    for (const byte of Buffer.from(word)) hash = Math.imul(hash ^ byte, prime);
    return (hash >>> 0) % tokenCount;
  });
}
