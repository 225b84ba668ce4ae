// The recipe of Relay, with what its compiler made of src/queries.js.
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import relay from 'relay-runtime';
import WebSocket from 'ws';

const { folder, url, token, machineId } = JSON.parse(process.argv[2]);
const load = (name) => import(pathToFileURL(join(folder, name)));
const { connect } = await load('graphql-ws.mjs');
const { environment, joinMetrics } = await load('relay.mjs');
const latest = (await load('src/__generated__/queriesLatestQuery.graphql.js')).default;
const live = (await load('src/__generated__/queriesLiveSubscription.graphql.js')).default;

const { createOperationDescriptor, fetchQuery, requestSubscription } = relay;
const socket = connect(url.replace('http', 'ws'), () => token, WebSocket);
const relayed = environment(url, () => token, socket);
const shown = (data) => data.machine.latestMetrics.sampledAt;
const variables = { id: machineId };
const first = shown(await fetchQuery(relayed, latest, variables).toPromise());
const operation = createOperationDescriptor(latest, variables);
relayed.retain(operation);
await new Promise((resolve, reject) => {
  relayed.subscribe(relayed.lookup(operation.fragment), ({ data }) => {
    if (shown(data) > first) resolve();
  });
  requestSubscription(relayed, {
    subscription: live,
    variables: { ids: [machineId] },
    updater: joinMetrics,
    onError: reject,
  });
});
console.log(JSON.stringify({ first }));
process.exit(0);
