// Samples in over ws, out to Redis through ioredis with automatic pipelining.
import { createServer } from 'node:http';
import { Redis } from 'ioredis';
import { WebSocketServer } from 'ws';

const LIFETIME_MS = 120000;
const redis = new Redis(process.env.BENCH_REDIS_URL, { enableAutoPipelining: true });
const server = createServer((_request, response) => response.end('ok'));
let connections = 0;

new WebSocketServer({ server, perMessageDeflate: false }).on('connection', socket => {
  const machine = `bench-${connections++}`;
  const key = `rg:latest:${machine}`;
  const channel = `rg:sample:${machine}`;
  let underWay = 0;
  socket.on('message', async frame => {
    const metrics = JSON.parse(frame);
    const stamp = Buffer.alloc(16);
    stamp.writeBigUInt64BE(1n, 0);
    stamp.writeBigUInt64BE(BigInt(metrics.sampled_at), 8);
    const sample = Buffer.concat([stamp, frame]);
    // Without this bound, reads outrun Redis and the heap grows without end.
    if (++underWay === 64) socket.pause();
    await Promise.all([
      redis.set(key, sample, 'PX', LIFETIME_MS),
      redis.publish(channel, sample),
    ]);
    if (--underWay === 32) socket.resume();
  });
});
server.listen({ port: Number(process.env.PORT), host: '127.0.0.1', backlog: 2048 });
