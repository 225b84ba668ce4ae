// mercurius on fastify; BENCH_JIT=1 has it compile the queries that it sees often.
import fastify from 'fastify';
import mercurius from 'mercurius';
import { resolvers, typeDefs } from './graph.mjs';
import { listen } from './source.mjs';

const app = fastify();
app.get('/healthz', async () => 'ok');
app.register(mercurius, {
  schema: typeDefs,
  resolvers,
  subscription: true,
  jit: process.env.BENCH_JIT ? 1 : 0,
});
await listen();
await app.listen({ port: Number(process.env.PORT), host: '127.0.0.1', backlog: 2048 });
