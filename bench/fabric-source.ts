/** The process from which bench/fabric.ts reads: exposes a segment of the given size, and ends with its parent. */
import { HostFabric } from '../src/native-bridge/fabric.ts';
import { Mapping, ThreadPool } from '../src/native-bridge/memory.ts';

const [secret, path, bytes] = process.argv.slice(2);
const segment = Mapping.create(path!, Number(bytes));
process.on('disconnect', () => {
  segment.unlink();
  process.exit(0);
});
const pool = new ThreadPool(1);
const step = 64 << 20;
for (let at = 0; at < segment.bytes; at += step) segment.write(at, Buffer.alloc(step, 1));
const fabric = HostFabric.open({ secret: Buffer.from(secret!, 'hex'), pool });
const { token } = await fabric.expose(segment);
process.send!({ address: [...fabric.address], token: [...token] });
