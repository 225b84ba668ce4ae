// node viewer.mjs '{"url", "token", "live", "machineId"}': what graphql-ws's own client makes of a
// server, as one JSON object on standard output.
import { CloseCode, createClient } from 'graphql-ws';
import WebSocket from 'ws';

const { url, token, live, machineId } = JSON.parse(process.argv[2]);
const SUBPROTOCOL = 'graphql-transport-ws';
const metrics = {
  query: live,
  operationName: 'MachineMetrics',
  variables: { machineIds: [machineId] },
};

function client(options = {}) {
  return createClient({
    url,
    webSocketImpl: WebSocket,
    connectionParams: { token },
    retryAttempts: 0,
    ...options,
  });
}

// The first `count` results; leaving the loop completes the operation.
async function take(viewer, payload, count) {
  const results = [];
  for await (const result of viewer.iterate(payload)) {
    results.push(result);
    if (results.length === count) break;
  }
  return results;
}

async function operations() {
  const viewer = client();
  const told = {
    query: await take(viewer, { query: '{ viewer { user { username } } }' }, 2),
    metrics: await take(viewer, metrics, 3),
    // The same socket again: what was completed is forgotten on both sides.
    again: await take(viewer, metrics, 2),
    changes: await take(viewer, { query: live, operationName: 'MachineChanges' }, 1),
    failed: await take(viewer, { query: '{ noSuchField }' }, 1).catch((errors) => errors),
  };
  await viewer.dispose();
  return told;
}

// keepAlive sends pings by itself, and a pong has to come for each.
async function pings() {
  const viewer = client({ lazy: false, keepAlive: 50 });
  const heard = [];
  await new Promise((resolve) => {
    viewer.on('ping', (received, payload) => heard.push({ ping: received, payload }));
    viewer.on('pong', (received, payload) => {
      heard.push({ pong: received, payload });
      if (heard.length >= 6) resolve();
    });
  });
  await viewer.dispose();
  return heard;
}

// How the server closes a socket on which `messages` are sent, once each `connection_ack`ed or not.
function closing(messages, subprotocol = SUBPROTOCOL) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(url, subprotocol);
    socket.on('open', () => messages.forEach((message) => socket.send(JSON.stringify(message))));
    socket.on('close', (code, reason) => resolve({ code, reason: reason.toString() }));
    socket.on('error', reject);
  });
}

async function closings() {
  const init = { type: 'connection_init', payload: { token } };
  const subscribe = { id: '1', type: 'subscribe', payload: metrics };
  const cases = {
    BadRequest: [init, { type: 'no such type' }],
    Unauthorized: [subscribe],
    Forbidden: [{ ...init, payload: { token: 'no such token' } }],
    SubprotocolNotAcceptable: null,
    ConnectionInitialisationTimeout: [],
    SubscriberAlreadyExists: [init, subscribe, subscribe],
    TooManyInitialisationRequests: [init, init],
  };
  const told = {};
  for (const [name, messages] of Object.entries(cases)) {
    const { code, reason } = await (messages ? closing(messages) : closing([], []));
    told[name] = { expected: CloseCode[name], code, reason };
  }
  return told;
}

// The client's own view of a refused token: the close event ends what it was asked.
const refused = await take(client({ connectionParams: { token: 'bad' } }), metrics, 1).catch(
  (event) => ({ code: event.code, reason: event.reason }),
);

console.log(
  JSON.stringify({
    operations: await operations(),
    pings: await pings(),
    closings: await closings(),
    refused,
  }),
);
