// Where in the sources something in a compiled file stands, by the map beside that file.
import { existsSync, readFileSync } from 'node:fs';
import { SourceMap } from 'node:module';
import { dirname, relative, resolve } from 'node:path';

const maps = new Map();

function mapOf(file) {
  if (!maps.has(file)) {
    const path = `${file}.map`;
    maps.set(file, existsSync(path) ? new SourceMap(JSON.parse(readFileSync(path, 'utf8'))) : null);
  }
  return maps.get(file);
}

/** `file:line` as a person opens it; lines and columns begin at 1. */
export function sourcePosition(file, line, column = 1) {
  const entry = mapOf(file)?.findEntry(line - 1, column - 1);
  if (entry?.originalSource === undefined) return `${relative(process.cwd(), file)}:${line}`;
  const source = resolve(dirname(file), entry.originalSource);
  return `${relative(process.cwd(), source)}:${entry.originalLine + 1}`;
}

/** The source that a compiled file was made of, as a path from here. */
export function sourceOf(file) {
  const [source] = sourcePosition(file, 1).split(':');
  return source;
}

/** A stack, or any text with positions in it, in terms of the sources. */
export function inSources(text) {
  return text.replace(/(?:file:\/\/)?(\/[^\s():]+\.js):(\d+):(\d+)/g, (whole, file, line, column) =>
    mapOf(file) === null ? whole : sourcePosition(file, Number(line), Number(column)),
  );
}
