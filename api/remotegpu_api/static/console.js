// GraphiQL over this server's graph: queries by fetch, subscriptions by websocket, both with the
// cookie that the sign-in set.
"use strict";

const INTRODUCTION = `# The whole graph of RemoteGPU: everything
# that a dashboard or a script can do.
#
# Ctrl-Enter runs, Ctrl-Space completes, the
# book on the left documents every type. The
# next tabs hold live subscriptions.
#
# Outside a browser, send an API token as
# "Authorization: Bearer ..." to this address.

`;

const MACHINES = `query Machines {
  machines(first: 20) {
    totalCount
    edges {
      node {
        id
        name
        presence
        availability
        health
        gpus { index model memoryTotal }
        latestMetrics {
          sampledAt
          host { cpuUtilization memoryUsed }
          gpus {
            index
            utilization
            memoryUsed
            temperature
            power
          }
        }
      }
    }
  }
}
`;

const MACHINE_METRICS = `# The latest sample at once, then every new one.
subscription MachineMetrics($machineIds: [ID!]!) {
  machineMetrics(machineIds: $machineIds) {
    machineId
    sampledAt
    host { cpuUtilization memoryUsed memoryTotal }
    gpus {
      index
      uuid
      utilization
      memoryUsed
      memoryTotal
      temperature
      power
      smClock
    }
  }
}
`;

const FLEET = `subscription FleetPulse {
  fleetChanged {
    machines { online allocated }
    gpus {
      available
      allocated
      utilization
      power
    }
  }
}
`;

const notice = document.getElementById("notice");

/** Signed out in another tab, or expired: only a new sign-in helps. */
function leave() {
  location.assign("/sign-in");
}

async function request(input, init) {
  const response = await fetch(input, init);
  if (response.status === 401) leave();
  return response;
}

/** The data of a query, as far as there is any. */
async function ask(query) {
  const response = await request("/graphql", {
    method: "POST",
    credentials: "same-origin",
    headers: { "Content-Type": "application/json", Accept: "application/json" },
    body: JSON.stringify({ query }),
  });
  const body = await response.json().catch(() => null);
  return body?.data ?? {};
}

function liveClient() {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  return graphqlWs.createClient({
    url: `${scheme}//${location.host}/graphql`,
    shouldRetry: (event) => ![4401, 4403].includes(event?.code),
    on: {
      connected: () => (notice.textContent = ""),
      closed: (event) => {
        if (event?.code === 4401 || event?.code === 4403) leave();
        else if (!event?.wasClean) notice.textContent = "Live connection lost, trying again…";
      },
    },
  });
}

async function start() {
  const { viewer, machines } = await ask(
    "{ viewer { user { username role } } machines(first: 100) { edges { node { id } } } }",
  ).catch(() => ({}));
  if (viewer === null) {
    leave();
    return;
  }
  if (viewer?.user) {
    document.getElementById("viewer").textContent = `${viewer.user.username} (${viewer.user.role})`;
  }
  const machineIds = machines?.edges.map((edge) => edge.node.id) ?? [];

  const fetcher = GraphiQL.createFetcher({
    url: "/graphql",
    fetch: request,
    wsClient: liveClient(),
  });
  const editor = React.createElement(GraphiQL, {
    fetcher,
    // Variables may hold passwords: they end with the browser's tab, not never.
    storage: sessionStorage,
    defaultTabs: [
      { query: INTRODUCTION + MACHINES },
      { query: MACHINE_METRICS, variables: JSON.stringify({ machineIds }, null, 2) },
      { query: FLEET },
    ],
    defaultEditorToolsVisibility: "variables",
    inputValueDeprecation: true,
    schemaDescription: true,
  });
  ReactDOM.createRoot(document.getElementById("graphiql")).render(editor);
}

document.getElementById("sign-out").addEventListener("click", async () => {
  const response = await fetch("/sign-out", {
    method: "POST",
    credentials: "same-origin",
    headers: { "Content-Type": "application/json" },
    body: "{}",
  }).catch(() => null);
  if (!response?.ok) {
    notice.textContent = "The server did not sign you out: try again.";
    return;
  }
  sessionStorage.clear();
  leave();
});

start();
