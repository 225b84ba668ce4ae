// Apollo Client 3, by what docs/clients.md says of it.
import { createRequire } from 'node:module';
import { finish, liveUrl, machineId, recipe, requests, Socket, token, url } from './recipes.mjs';

const require = createRequire(import.meta.url);
const { ApolloClient, ApolloLink, gql, HttpLink, InMemoryCache } = require('apollo-client-3/core');
const { setContext } = require('apollo-client-3/link/context');
const { createPersistedQueryLink } = require('apollo-client-3/link/persisted-queries');
const { GraphQLWsLink } = require('apollo-client-3/link/subscriptions');
const { getMainDefinition } = require('apollo-client-3/utilities');

const { connect } = await recipe('graphql-ws.mjs');
const { sha256 } = await recipe('apollo.mjs');
const LATEST = gql`query Latest { machines(first: 20) { edges { node {
  id latestMetrics { machine { id } sampledAt gpus { uuid utilization } }
} } } }`;
const LIVE = gql`subscription Live($ids: [ID!]!) { machineMetrics(machineIds: $ids) {
  machine { id } sampledAt gpus { uuid utilization }
} }`;
const client = new ApolloClient({
  link: ApolloLink.split(
    ({ query }) => getMainDefinition(query).operation === 'subscription',
    new GraphQLWsLink(connect(liveUrl, () => token, Socket)),
    ApolloLink.from([
      createPersistedQueryLink({ sha256, useGETForHashedQueries: true }),
      setContext((_, { headers }) => ({
        headers: { ...headers, authorization: `Bearer ${token}` },
      })),
      new HttpLink({ uri: url }),
    ]),
  ),
  cache: new InMemoryCache({
    typePolicies: {
      MachineMetrics: { keyFields: ['machine', ['id']] },
      GpuMetrics: { keyFields: ['uuid'] },
    },
  }),
});

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
