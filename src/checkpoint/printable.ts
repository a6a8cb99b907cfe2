const LONGEST = 200;

/**
 * A name out of a file, in quotes and on one line whatever it contains, cut when it is very long: it comes from
 * input that nobody has checked and goes to a terminal.
 */
export function quoted(name: string): string {
  const cut = name.length > LONGEST ? `${name.slice(0, LONGEST)}…` : name;
  return escapeControls(JSON.stringify(cut));
}

/** A path or another program's message, on one line. */
export function oneLine(text: string): string {
  return escapeControls(text);
}

/** Escapes what moves a terminal's cursor or ends a line: C0, DEL, C1, and Unicode's two line separators. */
function escapeControls(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what it looks for
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]/g, (character) => {
    return `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`;
  });
}
