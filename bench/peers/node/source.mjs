// Samples from Redis, read once per process, and the fleet that queries are answered from.
import { readFileSync } from 'node:fs';
import { decode } from '@msgpack/msgpack';
import { Redis } from 'ioredis';

const STAMP_BYTES = 16;
const listeners = new Set();

/** Begin to tell all feeds about the samples on the channel in BENCH_CHANNEL. */
export async function listen() {
  const redis = new Redis(process.env.BENCH_REDIS_URL);
  redis.on('messageBuffer', (_channel, packed) => {
    const metrics = read(packed);
    for (const listener of listeners) listener(metrics);
  });
  await redis.subscribe(process.env.BENCH_CHANNEL);
}

function read(packed) {
  const [cpuUtilization, memoryUsed, memoryTotal] = [0, 1, 2];
  const { host, gpus } = decode(packed.subarray(STAMP_BYTES));
  return {
    sampledAt: Number(packed.readBigUInt64BE(8)),
    host: {
      cpuUtilization: host[cpuUtilization],
      memoryUsed: host[memoryUsed],
      memoryTotal: host[memoryTotal],
    },
    gpus: gpus.map(gpu => ({
      index: gpu[0], uuid: gpu[1], utilization: gpu[2], memoryUsed: gpu[4], memoryTotal: gpu[5],
      temperature: gpu[6], power: gpu[7], powerLimit: gpu[8], smClock: gpu[9], memoryClock: gpu[10],
    })),
  };
}

/** Every sample from now on, as a subscription's source. */
export function feed(machineId) {
  const waiting = [];
  let wake = null;
  const listener = metrics => {
    waiting.push({ machineMetrics: { machineId, ...metrics } });
    wake?.();
  };
  listeners.add(listener);
  return {
    [Symbol.asyncIterator]() { return this; },
    async next() {
      while (waiting.length === 0) await new Promise(resolve => { wake = resolve; });
      return { value: waiting.shift(), done: false };
    },
    async return() {
      listeners.delete(listener);
      return { value: undefined, done: true };
    },
  };
}

const file = process.env.BENCH_FLEET;
/** What `machines` answers. */
export const fleet = file ? { edges: JSON.parse(readFileSync(file, 'utf8')).map(node => ({ node })) } : { edges: [] };
