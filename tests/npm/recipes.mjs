// What every program here that tries a recipe of docs/clients.md needs.
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import WebSocket from 'ws';

export const { folder, url, token, machineId } = JSON.parse(process.argv[2]);
export const liveUrl = url.replace('http', 'ws');

export function recipe(name) {
  return import(pathToFileURL(join(folder, name)));
}

// Every socket that was opened, so that one can be broken.
export const sockets = [];
export class Socket extends WebSocket {
  constructor(...args) {
    super(...args);
    sockets.push(this);
  }
}

// Every request to the server, as far as it matters how it was sent.
export const requests = [];
const plainFetch = globalThis.fetch;
globalThis.fetch = async (input, options = {}) => {
  const text = `${decodeURIComponent(String(input))} ${options.body ?? ''}`;
  const response = await plainFetch(input, options);
  requests.push({
    method: options.method ?? 'GET',
    named: text.includes('sha256Hash'),
    whole: /query[ \w]*\{/.test(text.replaceAll('+', ' ')),
    status: response.status,
  });
  return response;
};

export async function ask(query, variables) {
  const response = await plainFetch(url, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', Authorization: `Bearer ${token}` },
    body: JSON.stringify({ query, variables }),
  });
  return (await response.json()).data;
}

// Told at the end, since open connections would keep the process.
export function finish(told) {
  console.log(JSON.stringify({ ...told, requests }));
  process.exit(0);
}
