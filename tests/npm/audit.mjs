// node audit.mjs URL: every audit of GraphQL over HTTP, as a JSON array on standard output.
import { auditServer } from 'graphql-http';

const results = await auditServer({ url: process.argv[2] });
const told = await Promise.all(
  results.map(async ({ id, name, status, reason, response }) => ({
    id,
    name,
    status,
    reason,
    answer: response && `${response.status} ${await response.text().catch(() => '')}`,
  })),
);
console.log(JSON.stringify(told));
