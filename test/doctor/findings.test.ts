import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { examine, findingLines } from '../../src/doctor/examine.ts';
import type { Finding } from '../../src/doctor/finding.ts';
import type { Host } from '../../src/doctor/host.ts';
import { fakeHost, gpuFiles, limits, noLibrary } from './fake-host.ts';

function findings(
  t: TestContext,
  files: Readonly<Record<string, string | null>> = {},
  answers: Partial<Host> = {},
): Map<string, Finding> {
  return new Map(examine(fakeHost(t, files, answers)).map((finding) => [finding.subject, finding]));
}

test('a healthy machine has one ok line per finding', (t) => {
  assert.deepEqual(findingLines(examine(fakeHost(t))), [
    'ok       driver              CUDA 13.0, driver 580.159.04',
    'ok       GPU 0               NVIDIA H100 80GB HBM3, GPU-27f19e7d-086d-a026-49b5-397c7a67c812, 79.2 GiB, NUMA node 0, PCIe 5 x16',
    'ok       NCCL                2.30.7',
    'ok       RDMA mlx5_0 port 1  ACTIVE, InfiniBand, 400 Gb/sec (4X NDR), NUMA node 0',
    'ok       RDMA of GPU 0       mlx5_0:1',
    'ok       RDMA verbs          libibverbs and device nodes found',
    'ok       RDMA parameters     defaults; set NCCL_IB_TC and others where the network needs them',
    'ok       memlock             unlimited',
    'ok       /dev/shm            8 GiB, 6 GiB free',
    'ok       huge pages          used for /dev/shm (huge=within_size)',
    'ok       NUMA                1 node',
  ]);
});

test('the driver is needed on a machine with a GPU, and not on one without', (t) => {
  const probeCuda = () => noLibrary('cannot load the NVIDIA driver (no such file); install it');
  const withGpu = findings(t, {}, { probeCuda }).get('driver')!;
  assert.deepEqual(withGpu, {
    subject: 'driver',
    verdict: 'missing',
    needed: true,
    what: 'cannot load the NVIDIA driver (no such file)',
    advice: 'install it',
  });
  const other = { '/sys/bus/pci/devices/0000:1b:00.0/vendor': '0x8086' };
  const without = findings(t, other, { probeCuda }).get('driver')!;
  assert.equal(without.needed, false);
  assert.match(without.advice!, /not needed on a host without a GPU/);
});

test('a GPU with half of its PCIe lanes is slow, whatever the current speed of the idle link', (t) => {
  const files = gpuFiles('0000:1b:00.0', { current_link_width: '8' });
  const gpu = findings(t, files).get('GPU 0')!;
  assert.equal(gpu.verdict, 'slow');
  assert.match(gpu.what, /PCIe 5 x8$/);
  assert.match(gpu.advice!, /only 50 % of the speed of the GPU's 16 PCIe lanes/);
});

test('a GPU with an unknown NUMA node is slow only on a machine with several nodes', (t) => {
  const unknown = gpuFiles('0000:1b:00.0', { numa_node: '-1' });
  const alone = findings(t, unknown);
  assert.equal(alone.get('GPU 0')!.verdict, 'ok');
  assert.match(alone.get('GPU 0')!.what, /NUMA node unknown/);
  const several = findings(t, { ...unknown, '/sys/devices/system/node/node1/meminfo': '' });
  assert.equal(several.get('GPU 0')!.verdict, 'slow');
  assert.match(several.get('NUMA')!.what, /^2 nodes/);
});

test('a GPU whose sysfs files cannot be read is described by the driver alone', (t) => {
  const none = Object.fromEntries(Object.keys(gpuFiles('0000:1b:00.0')).map((path) => [path, null]));
  assert.equal(
    findings(t, none).get('GPU 0')!.what,
    'NVIDIA H100 80GB HBM3, GPU-27f19e7d-086d-a026-49b5-397c7a67c812, 79.2 GiB',
  );
});

test('the verdict on NCCL depends on its version and on the number of GPUs', (t) => {
  const nccl = (version: number) => findings(t, {}, { ncclVersion: () => version }).get('NCCL')!;
  assert.deepEqual([nccl(21_805).verdict, nccl(21_805).what], ['missing', '2.18.5 is too old']);
  assert.deepEqual([nccl(21_900).verdict, nccl(21_900).what], ['ok', '2.19.0']);
  assert.match(nccl(23_006).advice!, /ranks that share a GPU need 2\.30\.7 or newer/);
  assert.equal(nccl(23_007).advice, null);
  const ncclVersion = () => noLibrary('libnccl.so.2: cannot open shared object file');
  const advice = (answers: Partial<Host>) => {
    const none = findings(t, {}, { ncclVersion, ...answers }).get('NCCL')!;
    assert.equal(none.verdict, 'missing');
    return none.advice!;
  };
  assert.match(advice({}), /WEIGHTCAST_NCCL.*not needed for ranks on one GPU$/);
  assert.match(advice({ probeCuda: () => noLibrary('no driver') }), /not needed without a GPU$/);
  const { version, devices } = fakeHost(t).probeCuda();
  const probeCuda = () => ({ version, devices: [...devices, ...devices] });
  assert.match(advice({ probeCuda }), /without it, GPUs of one host copy from each other/);
});

test('an RDMA port that is down, a missing library and missing device nodes are reported', (t) => {
  const down = findings(t, { '/sys/class/infiniband/mlx5_0/ports/1/state': '1: DOWN' });
  assert.equal(down.get('RDMA mlx5_0 port 1')!.verdict, 'slow');
  assert.match(down.get('RDMA mlx5_0 port 1')!.what, /^DOWN, InfiniBand/);
  const noVerbs = findings(t, {}, { loadError: (library) => `${library}: not found` });
  assert.equal(noVerbs.get('RDMA verbs')!.what, 'libibverbs.so.1: not found');
  const noNodes = findings(t, { '/dev/infiniband/uverbs0': null });
  assert.match(noNodes.get('RDMA verbs')!.advice!, /--device=\/dev\/infiniband/);
});

test('the variables that RDMA connections are set up by are shown, and a wrong one is missing', (t) => {
  const parameters = (environment: Record<string, string>) =>
    findings(t, {}, { environment }).get('RDMA parameters')!;
  assert.equal(
    parameters({ NCCL_IB_TC: '106', NCCL_IB_GID_INDEX: '3' }).what,
    'NCCL_IB_GID_INDEX=3 NCCL_IB_TC=106',
  );
  const wrong = parameters({ NCCL_IB_TIMEOUT: '99' });
  assert.deepEqual(
    [wrong.verdict, wrong.what],
    ['missing', 'NCCL_IB_TIMEOUT must be a whole number from 1 to 31, not 99'],
  );
});

test('the limit of locked memory matters only with RDMA', (t) => {
  const limited = { '/proc/self/limits': limits('8388608') };
  const withRdma = findings(t, limited).get('memlock')!;
  assert.deepEqual([withRdma.verdict, withRdma.what], ['missing', 'limited to 8 MiB']);
  const ports = '/sys/class/infiniband/mlx5_0';
  const without = findings(t, {
    ...limited,
    ...Object.fromEntries(
      ['ports/1/state', 'ports/1/rate', 'ports/1/link_layer', 'device/numa_node'].map((name) => [
        `${ports}/${name}`,
        null,
      ]),
    ),
  });
  assert.equal(without.get('memlock')!.verdict, 'ok');
  assert.equal(without.get('RDMA')!.verdict, 'missing');
  assert.equal(without.get('RDMA')!.needed, false);
});

test("a container's default of 64 MiB of shared memory is too small", (t) => {
  const small = findings(t, {}, { space: () => ({ total: 2 ** 26, free: 2 ** 26 }) }).get('/dev/shm')!;
  assert.deepEqual([small.verdict, small.needed], ['missing', true]);
  assert.match(small.advice!, /--shm-size/);
  assert.equal(findings(t, {}, { space: () => null }).get('/dev/shm')!.needed, true);
});

test('shared memory without huge pages is slow', (t) => {
  const mounts = (options: string) =>
    findings(t, { '/proc/self/mounts': `tmpfs /dev/shm tmpfs ${options} 0 0` }).get('huge pages')!;
  assert.equal(mounts('rw,huge=always').verdict, 'ok');
  for (const options of ['rw,size=8g', 'rw,huge=never', 'rw,huge=advise']) {
    assert.equal(mounts(options).verdict, 'slow', options);
    assert.match(mounts(options).advice!, /remount,huge=within_size/);
  }
});

test('a machine of which nothing can be read still gets findings', (t) => {
  const host: Host = {
    environment: {},
    root: '/nowhere',
    read: () => null,
    list: () => [],
    space: () => null,
    probeCuda: () => noLibrary('no driver\nat all'),
    ncclVersion: () => noLibrary('no NCCL'),
    loadError: () => 'no library',
  };
  const lines = findingLines(examine(host));
  assert.equal(lines.length, 7);
  assert(lines.every((line) => !line.includes('\n')));
  assert(examine(fakeHost(t)).length > lines.length);
});
