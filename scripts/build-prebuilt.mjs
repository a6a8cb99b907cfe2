// Puts the addon into prebuilds/, for a package that is installed without a compiler (node-gyp-build compiles it where this
// one does not load: another kind of processor, musl, an older glibc).
import { cpSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { buildPortableAddon, glibcOf } from './portable-addon.mjs';

const scratch = mkdtempSync(join(tmpdir(), 'weightcast-prebuilt-'));
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }));
const addon = buildPortableAddon(scratch);
const prebuilt = fileURLToPath(
  new URL(`../prebuilds/linux-${process.arch}/weightcast.glibc.node`, import.meta.url),
);
cpSync(addon, prebuilt);
// On standard error: npm pack's output is the name of the package.
console.error(`${prebuilt}: for glibc ${glibcOf(addon).join('.')} or newer`);
