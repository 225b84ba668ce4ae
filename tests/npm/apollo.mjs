// The recipe of Apollo Client: documents named by their hash, and live samples in what a query shows.
import { finish, liveUrl, machineId, recipe, requests, Socket, token, url } from './recipes.mjs';

const { connect } = await recipe('graphql-ws.mjs');
const { apollo, LATEST, LIVE } = await recipe('apollo.mjs');
const client = apollo(url, () => token, connect(liveUrl, () => token, Socket));

const shown = ({ data }) => data?.machines?.edges?.[0]?.node.latestMetrics?.sampledAt;
const first = shown(await client.query({ query: LATEST }));
await client.query({ query: LATEST, fetchPolicy: 'network-only' });
const asked = requests.length;
client.subscribe({ query: LIVE, variables: { ids: [machineId] } }).subscribe({ error: finish });
await new Promise((resolve) => {
  client
    .watchQuery({ query: LATEST, fetchPolicy: 'cache-only' })
    .subscribe((result) => shown(result) > first && resolve());
});
finish({ first, asked });
