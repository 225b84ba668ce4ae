// The recipe of urql: queries by GET, and live samples in what a query shows.
import { finish, liveUrl, machineId, recipe, requests, Socket, token, url } from './recipes.mjs';

const { connect } = await recipe('graphql-ws.mjs');
const { urql } = await recipe('urql.mjs');
const client = urql(url, () => token, connect(liveUrl, () => token, Socket));

const LATEST = `query Latest { machines(first: 20) { edges { cursor node {
  id latestMetrics { machine { id } sampledAt gpus { uuid utilization } }
} } } }`;
const LIVE = `subscription Live($ids: [ID!]!) { machineMetrics(machineIds: $ids) {
  machine { id } sampledAt gpus { uuid utilization }
} }`;

const shown = ({ data }) => data?.machines?.edges?.[0]?.node.latestMetrics?.sampledAt;
let first;
await new Promise((resolve) => {
  client.query(LATEST, {}).subscribe((result) => {
    if (result.error) finish({ error: String(result.error) });
    first ??= shown(result);
    if (shown(result) > first) resolve();
    else client.subscription(LIVE, { ids: [machineId] }).subscribe(() => {});
  });
});
finish({ first, asked: requests.length });
