const LONGEST = 200;

/** For a name from a file, which is unchecked input: in quotes, on one line, cut when it is very long. */
export function quoted(name: string): string {
  const cut = name.length > LONGEST ? `${name.slice(0, LONGEST)}…` : name;
  return escapeControls(JSON.stringify(cut));
}

/**
 * For a path or another program's message: escapes what moves a terminal's cursor or ends a line, that is C0, DEL, C1
 * and Unicode's two line separators.
 */
export function escapeControls(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what it looks for
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]/g, (character) => {
    return `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`;
  });
}
