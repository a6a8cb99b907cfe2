/**
 * Options of node that change how modules are found or how much memory there is. Others are for one process: `-e` and
 * `-p` would run the user's code in each child, `--inspect-brk` would stop it, `--watch` would keep it running.
 */
const inherited = new Set([
  '--import',
  '--require',
  '-r',
  '--loader',
  '--experimental-loader',
  '--conditions',
  '-C',
  '--max-old-space-size',
  '--env-file',
  '--enable-source-maps',
]);

/** Those among them that stand alone; the others have a value, after `=` or as the next word. */
const withoutValue = new Set(['--enable-source-maps']);

/** What of a process's own options (`process.execArgv`) its children start with. */
export function inheritedOptions(execArgv: readonly string[]): string[] {
  const kept: string[] = [];
  for (let at = 0; at < execArgv.length; at += 1) {
    const option = execArgv[at]!;
    const [name] = option.split('=', 1);
    if (!inherited.has(name!)) continue;
    kept.push(option);
    if (option !== name || withoutValue.has(name)) continue;
    at += 1;
    kept.push(execArgv[at]!);
  }
  return kept;
}
