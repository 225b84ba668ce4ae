// graphql-ws on ws, and graphql-js over node:http, as their documentation shows them.
import { createServer } from 'node:http';
import { text } from 'node:stream/consumers';
import { execute, parse } from 'graphql';
import { useServer } from 'graphql-ws/use/ws';
import { createSchema } from 'graphql-yoga';
import { WebSocketServer } from 'ws';
import { resolvers, typeDefs } from './graph.mjs';
import { listen } from './source.mjs';

const schema = createSchema({ typeDefs, resolvers });
const documents = new Map();

function document(source) {
  if (!documents.has(source)) documents.set(source, parse(source));
  return documents.get(source);
}

const server = createServer(async (request, response) => {
  if (request.url === '/healthz') return response.end('ok');
  const { query, variables } = JSON.parse(await text(request));
  const result = await execute({ schema, document: document(query), variableValues: variables });
  response.setHeader('content-type', 'application/json');
  response.end(JSON.stringify(result));
});
useServer({ schema }, new WebSocketServer({ server, path: '/graphql', perMessageDeflate: false }));
await listen();
server.listen({ port: Number(process.env.PORT), host: '127.0.0.1', backlog: 2048 });
