// The recipe of graphql-ws: changes go on where they broke off, and after a close with 4429 too.
import { ask, finish, liveUrl, machineId, recipe, Socket, sockets, token } from './recipes.mjs';

const { connect, changes } = await recipe('graphql-ws.mjs');
const client = connect(liveUrl, () => token, Socket);

async function label(value) {
  await ask(
    `mutation Label($input: SetMachineLabelsInput!) {
      setMachineLabels(input: $input) { userErrors { message } }
    }`,
    { input: { machineId, labels: [{ key: 'step', value }] } },
  );
}

const heard = [];
for await (const { kind } of changes(client)) {
  if (!['READY', 'CONFIGURATION_CHANGED'].includes(kind)) continue;
  heard.push(kind);
  if (heard.length === 1) await label('first');
  if (heard.length === 2) {
    sockets.at(-1).terminate();
    await label('while it is away');
  }
  if (heard.length === 3) {
    const closed = new Promise((resolve) => sockets.at(-1).on('close', resolve));
    await label('slow');
    heard.push(await closed);
    await label('after');
  }
  if (heard.length >= 6) break;
}
finish({ heard, connections: sockets.length });
