/**
 * Options of node that change how much memory there is, how modules are found, or whom TLS trusts. Others are for one
 * process: `-e` and `-p` would run the user's code in each child, `--inspect-brk` would stop it, `--watch` would keep it
 * running.
 */
const inherited = new Set([
  '--conditions',
  '-C',
  '--max-old-space-size',
  '--max-semi-space-size',
  '--enable-source-maps',
  '--preserve-symlinks',
  '--preserve-symlinks-main',
  '--use-openssl-ca',
  '--use-bundled-ca',
  '--use-system-ca',
  '--tls-cipher-list',
  '--openssl-config',
  '--dns-result-order',
]);

/** They load a module first, which may be the user's program: only for entries that node cannot run without one. */
const preloads = new Set(['--import', '--require', '-r', '--loader', '--experimental-loader']);
/** Yarn's way to find modules at all. */
const findsModules = /\.pnp\.(cjs|loader\.mjs)$/;

/** Those among them that stand alone; the others have a value, after `=` or as the next word. */
const withoutValue = new Set([
  '--enable-source-maps',
  '--preserve-symlinks',
  '--preserve-symlinks-main',
  '--use-openssl-ca',
  '--use-bundled-ca',
  '--use-system-ca',
]);

/**
 * What of a process's own options (`process.execArgv`) its children start with. `needsLoader`: their entry is a source file
 * of TypeScript, so modules that are loaded first go on to them too.
 */
export function inheritedOptions(execArgv: readonly string[], needsLoader: boolean): string[] {
  const kept: string[] = [];
  for (let at = 0; at < execArgv.length; at += 1) {
    const option = execArgv[at]!;
    const equals = option.startsWith('--') ? option.indexOf('=') : -1;
    const name = equals < 0 ? option : option.slice(0, equals);
    const isPreload = preloads.has(name);
    if (!isPreload && !inherited.has(name)) continue;
    const takesNext = equals < 0 && !withoutValue.has(name);
    const value = takesNext ? (execArgv[at + 1] ?? '') : option.slice(equals + 1);
    if (takesNext) at += 1;
    if (isPreload && !needsLoader && !findsModules.test(value)) continue;
    kept.push(option, ...(takesNext ? [value] : []));
  }
  return kept;
}

/**
 * The environment of a child: `NODE_OPTIONS` by the same rules, and without what `node --watch` tells its own child, which
 * ours would answer on the channel that it has to its parent.
 */
export function inheritedEnvironment(
  environment: NodeJS.ProcessEnv,
  needsLoader: boolean,
): NodeJS.ProcessEnv {
  const { NODE_OPTIONS, WATCH_REPORT_DEPENDENCIES: _, ...others } = environment;
  const kept = inheritedOptions(wordsOf(NODE_OPTIONS ?? ''), needsLoader);
  return kept.length === 0 ? others : { ...others, NODE_OPTIONS: kept.map(quoted).join(' ') };
}

/** Words with spaces between, as node reads them: in double quotes a word may have spaces, after a backslash any character. */
function wordsOf(text: string): string[] {
  const words = text.match(/(?:"(?:\\.|[^"\\])*"|[^\s"])+/gs) ?? [];
  return words.map((word) =>
    word.replace(/"((?:\\.|[^"\\])*)"/gs, (_, inner) => inner.replace(/\\(.)/gs, '$1')),
  );
}

function quoted(word: string): string {
  return /[\s"]/.test(word) ? `"${word.replace(/["\\]/g, '\\$&')}"` : word;
}
