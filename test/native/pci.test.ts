import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, test } from 'node:test';
import { type HostRdmaPort, rdmaOptionsOf } from '../../src/native-bridge/fabric.ts';
import { listPciGpus, placeOfRdmaDevice } from '../../src/native-bridge/pci.ts';
import { nearnessOf } from '../../src/plan/nic-distance.ts';

const roots: string[] = [];
after(() => {
  for (const root of roots) rmSync(root, { recursive: true });
});

interface Nic {
  readonly name: string;
  /** Of its folder below /sys/devices; null for one without hardware. */
  readonly path: string | null;
  readonly gigabits?: number;
  readonly linkLayer?: HostRdmaPort['linkLayer'];
}

/** A machine of which only sysfs is there. */
class Machine {
  readonly root: string;
  readonly gpus: readonly string[];
  readonly ports: HostRdmaPort[];

  constructor(gpus: readonly string[], nics: readonly Nic[], numaOf: (path: string) => number) {
    this.root = mkdtempSync(join(tmpdir(), 'weightcast-pci-'));
    roots.push(this.root);
    this.gpus = gpus.map((path) => path.split('/').at(-1)!);
    for (const path of gpus) {
      this.#device(path, { vendor: '0x10de', class: '0x030200', numa_node: `${numaOf(path)}` });
    }
    // A bridge of the same vendor is no GPU.
    this.#device('pci0000:00/0000:00:09.0', { vendor: '0x10de', class: '0x060400', numa_node: '0' });
    for (const { name, path, gigabits = 400 } of nics)
      this.#nic(name, path, gigabits, path === null ? -1 : numaOf(path));
    this.ports = nics.map(({ name, linkLayer = 'infiniband' }) => {
      return { device: name, port: 1, isActive: true, linkLayer };
    });
  }

  /** The devices that the rank of each GPU uses. */
  shares(environment: Record<string, string> = {}): string[][] {
    return this.gpus.map((gpu, localRank) => {
      const position = { gpu, localRank, localRanks: this.gpus.length };
      const found = { ports: this.ports, why: '' };
      const { rdmaPorts } = rdmaOptionsOf(environment, position, found, this.root);
      return rdmaPorts.map(({ device }) => device);
    });
  }

  nearness(gpu: number, device: string): string {
    return nearnessOf(listPciGpus(this.root)[gpu]!.place, placeOfRdmaDevice(device, this.root));
  }

  #device(path: string, files: Readonly<Record<string, string>>): void {
    const folder = `/sys/devices/${path}`;
    for (const [name, text] of Object.entries(files)) this.#write(`${folder}/${name}`, text);
    this.#link(`/sys/bus/pci/devices/${path.split('/').at(-1)}`, folder);
  }

  #nic(name: string, path: string | null, gigabits: number, numaNode: number): void {
    const folder = path === null ? '/sys/devices/virtual' : `/sys/devices/${path}`;
    const own = `${folder}/infiniband/${name}`;
    this.#write(`${own}/ports/1/rate`, `${gigabits} Gb/sec (4X NDR)`);
    this.#link(`/sys/class/infiniband/${name}`, own);
    if (path === null) return;
    this.#device(path, { vendor: '0x15b3', class: '0x020700', numa_node: `${numaNode}` });
    this.#link(`${own}/device`, folder);
  }

  #write(path: string, text: string): void {
    mkdirSync(dirname(join(this.root, path)), { recursive: true });
    writeFileSync(join(this.root, path), `${text}\n`);
  }

  #link(path: string, target: string): void {
    mkdirSync(dirname(join(this.root, path)), { recursive: true });
    symlinkSync(join(this.root, target), join(this.root, path));
  }
}

/** A device behind port `port` of a switch, which hangs on a root complex of its own. */
const behindSwitch = (complex: string, port: number, address: string) =>
  `pci0000:${complex}/0000:${complex}:01.0/0000:${complex}:02.0/0000:${complex}:0${port + 3}.0/0000:${address}:00.0`;
const atRoot = (complex: string, address: string) =>
  `pci0000:${complex}/0000:${complex}:0e.0/0000:${address}:00.0`;

const complexes = ['15', '37', '48', '59', '97', 'b7', 'c7', 'd7'];
const node = (path: string) => (Number.parseInt(path.slice(8, 10), 16) < 0x80 ? 0 : 1);
/** Eight GPUs, each with a port of its own behind its switch, and storage and management beside them. */
const hgx = () =>
  new Machine(
    complexes.map((complex, index) => behindSwitch(complex, 0, `${complex[0]}${'bcdefabc'[index]}`)),
    [
      { name: 'mlx5_0', path: atRoot('15', '24'), gigabits: 400 },
      // Found in an order of their own, as drivers do.
      ...[...complexes.entries()].reverse().map(([index, complex]) => ({
        name: `rail${index}`,
        path: behindSwitch(complex, 1, `${complex[0]}${'0123456789'[index]}`),
      })),
      { name: 'mlx5_9', path: atRoot('97', '25'), gigabits: 400 },
      { name: 'mlx5_bond_0', path: atRoot('37', '26'), gigabits: 100, linkLayer: 'ethernet' },
    ],
    node,
  );

test('each GPU has the port behind its own switch; storage and management have none', () => {
  const machine = hgx();
  assert.deepEqual(
    machine.shares(),
    complexes.map((_, index) => [`rail${index}`]),
  );
  assert.equal(machine.nearness(0, 'rail0'), 'PIX');
  assert.equal(machine.nearness(0, 'mlx5_0'), 'PHB');
  assert.equal(machine.nearness(0, 'rail1'), 'NODE');
  assert.equal(machine.nearness(0, 'rail7'), 'SYS');
});

test('ports that someone names are used, by distance too', () => {
  const machine = hgx();
  assert.deepEqual(
    machine.shares({ NCCL_IB_HCA: '=rail0,rail7' }),
    complexes.map((complex) => [node(`pci0000:${complex}`) === 0 ? 'rail0' : 'rail7']),
  );
  assert.deepEqual(machine.shares({ NCCL_IB_HCA: '=mlx5_bond_0' })[7], ['mlx5_bond_0']);
});

test("checkpoint-engine's list goes by its own order", () => {
  const shares = hgx().shares({ PS_P2P_STORE_RDMA_DEVICES: 'rail7,rail0' });
  assert.deepEqual(shares, [...new Array(4).fill(['rail7']), ...new Array(4).fill(['rail0'])]);
});

test('GPUs of one switch take turns at its ports, and a number that does not divide is no failure', () => {
  const gpus = ['1', '2', '3'].map((number) => behindSwitch('15', Number(number), `0${number}`));
  const nic = (name: string, port: number, address: string) => ({
    name,
    path: behindSwitch('15', port, address),
  });
  const two = new Machine(gpus, [nic('a', 4, '0a'), nic('b', 5, '0b')], () => 0);
  assert.deepEqual(two.shares(), [['a'], ['a'], ['b']]);
  const four = new Machine(
    gpus.slice(0, 2),
    ['a', 'b', 'c'].map((name, index) => nic(name, 4 + index, `0${name}`)),
    () => 0,
  );
  assert.deepEqual(four.shares(), [['a'], ['b', 'c']]);
});

test('where nothing tells distances, as in many virtual machines, ranks take their share in order', () => {
  const flat = new Machine(
    ['05', '06'].map((slot) => `pci0000:00/0000:00:${slot}.0`),
    [
      { name: 'rxe0', path: null },
      { name: 'rxe1', path: null },
    ],
    () => -1,
  );
  assert.deepEqual(flat.shares(), [['rxe0'], ['rxe1']]);
});
