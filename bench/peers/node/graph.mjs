// The graph of live metrics with the product's fields, for any server on graphql-js.
import { GraphQLScalarType } from 'graphql';
import { feed, fleet } from './source.mjs';

export const typeDefs = `
  scalar ByteCount
  scalar DateTime
  type HostMetrics { cpuUtilization: Float memoryUsed: ByteCount memoryTotal: ByteCount }
  type GpuMetrics {
    index: Int! uuid: String! utilization: Float memoryUsed: ByteCount memoryTotal: ByteCount
    temperature: Float power: Float powerLimit: Float smClock: Int memoryClock: Int
  }
  type MachineMetrics { machineId: ID! sampledAt: DateTime! host: HostMetrics gpus: [GpuMetrics!]! }
  type LatestMetrics { sampledAt: DateTime! gpus: [GpuMetrics!]! }
  type Machine { id: ID! name: String! latestMetrics: LatestMetrics }
  type MachineEdge { node: Machine! }
  type MachineConnection { edges: [MachineEdge!]! }
  type Query { machines(first: Int): MachineConnection }
  type Subscription { machineMetrics(machineIds: [ID!]!): MachineMetrics! }
`;

export const resolvers = {
  ByteCount: new GraphQLScalarType({ name: 'ByteCount', serialize: Number }),
  DateTime: new GraphQLScalarType({
    name: 'DateTime',
    serialize: milliseconds => new Date(milliseconds).toISOString(),
  }),
  Query: { machines: () => fleet },
  Subscription: { machineMetrics: { subscribe: (_root, { machineIds }) => feed(machineIds[0]) } },
};
