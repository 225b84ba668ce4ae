// Another agent, written from docs/protocol.md: one session after the other, and every way they end.
//
// It leads: for what somebody else has to do it writes {"ask": ...} on a line and reads the answer.
import crypto from "node:crypto";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import readline from "node:readline";
import WebSocket from "ws";
import { decode, encode } from "./msgpack.mjs";

const { url, origin } = JSON.parse(process.argv[2]);
const answers = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();

async function ask(what, more = {}) {
  process.stdout.write(`${JSON.stringify({ ask: what, ...more })}\n`);
  return JSON.parse((await answers.next()).value);
}

const SURFACES = readFileSync("../../docs/reclaim.md", "utf8")
  .split("## The places")[1].split("\n## ")[0].split("\n")
  .filter((line) => line.startsWith("| ")).slice(1)
  .map((line) => line.split("|")[1].trim());

// Each part preceded by its length, 32 bits, big-endian.
const statement = (...parts) => Buffer.concat(parts.flatMap((part) => {
  const bytes = Buffer.from(part);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(bytes.length);
  return [length, bytes];
}));

class Key {
  constructor() {
    const pair = crypto.generateKeyPairSync("ed25519");
    this.secret = pair.privateKey;
    this.public = pair.publicKey.export({ type: "spki", format: "der" }).subarray(-32);
  }
  sign(bytes) { return crypto.sign(null, bytes, this.secret); }
}

class Link {
  constructor(opening, protocol = "remotegpu.agent.v1") {
    this.heard = [];
    this.waiting = [];
    this.socket = new WebSocket(`${url}/agent`, protocol ? [protocol] : [], { perMessageDeflate: false });
    this.socket.on("error", () => {});
    this.closed = new Promise((resolve) => this.socket.on("close", (code, reason) => {
      clearInterval(this.beat);
      resolve({ code, reason: reason.toString() });
    }));
    this.socket.on("message", (data) => {
      const message = decode(data);
      if (message.type === "challenge" && opening) this.send(opening(message));
      if (message.type === "welcome") this.keep(message);
      this.heard.push(message);
      this.waiting = this.waiting.filter((look) => !look());
    });
  }
  send(message) { this.socket.send(encode(message)); }
  keep(welcome) {
    let sequence = 0;
    this.beat = setInterval(() => this.send({ type: "heartbeat", sequence: ++sequence, clock: Date.now() }),
      welcome.heartbeat_interval * 1000);
  }
  // The first message of a type that fits, whether it came already or is still to come.
  hear(type, fits = () => true) {
    const find = () => this.heard.find((message) => message.type === type && fits(message));
    return new Promise((resolve, reject) => {
      const look = () => { const found = find(); if (found) resolve(found); return Boolean(found); };
      if (!look()) {
        this.waiting.push(look);
        this.closed.then((ended) => reject(new Error(`${type} never came: ${JSON.stringify(ended)}`)));
      }
    });
  }
  async end() {
    const ended = await this.closed;
    const fatal = this.heard.find((message) => message.type === "error" && message.fatal);
    return { ...ended, error: fatal ? fatal.code : null, text: fatal ? fatal.message : null };
  }
  async close() { this.socket.close(1001, "The agent ends."); await this.closed; }
}

class Host {
  constructor(name, gpus = ["GPU-js-0", "GPU-js-1"]) {
    Object.assign(this, { name, gpus, key: new Key(), versions: [1], last: 0, acknowledged: 0, waiting: [] });
    this.journal = `journal-${crypto.randomUUID()}`;
    this.boot = crypto.randomUUID();
  }
  enrolling(token) {
    return ({ nonce }) => ({
      type: "enroll", token, public_key: this.key.public, origin, versions: this.versions,
      signature: this.key.sign(statement("remotegpu agent enroll v1", token, this.key.public, origin, nonce,
        this.versions.join(","))),
      agent_version: "js 1", hostname: this.name, hardware_uuid: null,
    });
  }
  connecting() {
    return (challenge) => {
      const nonce = crypto.randomBytes(32);
      return {
        type: "hello", machine_id: this.id, origin, nonce, versions: this.versions,
        signature: this.key.sign(statement("remotegpu agent connect v1", this.id, origin, challenge.nonce, nonce,
          this.versions.join(","))),
        agent_version: "js 1", boot_id: this.boot, clock: Date.now(),
        journal_id: this.journal, last_sequence: this.last, acknowledged_sequence: this.acknowledged,
      };
    };
  }
  async enroll(machine = null) {
    const { token } = await ask("token", { name: this.name, machine });
    const link = new Link(this.enrolling(token));
    this.id = (await link.hear("enrolled")).machine_id;
    return link.end();
  }
  // A link that is open and has told what the host is.
  async connect() {
    const link = new Link(this.connecting());
    await link.hear("welcome");
    link.send({
      type: "inventory", revision: 1,
      host: {
        hostname: this.name, driver_state: "READY",
        policy: { commands: ["allocation.start", "allocation.update", "allocation.end"] },
      },
      gpus: this.gpus.map((uuid, index) => ({ index, uuid, model: "NVIDIA H100", memory_total: 80e9 })),
    });
    await link.hear("inventory_ack");
    this.sample(link);
    for (const event of this.waiting) link.send(event);
    return link;
  }
  sample(link, at = Date.now(), gpus = this.gpus) {
    link.send({
      type: "metrics", sampled_at: at, host: [12.5, 1024],
      gpus: gpus.map((uuid, index) => [index, uuid, 50.5, null, 1024, 80e9]),
    });
  }
  async tell(link, command, state, more = {}) {
    const event = { type: "event", sequence: ++this.last, command_id: command.id, state, at: Date.now(), ...more };
    this.waiting.push(event);
    link.send(event);
    await link.hear("event_ack", ({ sequence }) => sequence >= event.sequence);
    this.acknowledged = event.sequence;
    this.waiting = [];
  }
  async carryOut(link, kind, result = {}) {
    const command = await link.hear("command", (message) => message.kind === kind);
    await this.tell(link, command, "ACCEPTED");
    await this.tell(link, command, "RUNNING", { progress: 0.5, step: "working" });
    await this.tell(link, command, "SUCCEEDED", { result: encode(result) });
    return { ...command, arguments: decode(command.arguments) };
  }
}

const told = { ends: {} };

// Enrolment, samples, and a rate that somebody wants.
const host = new Host("js-1");
told.ends.enrolled = await host.enroll();
let link = await host.connect();
await ask("watch", { name: host.name });
told.rate = await link.hear("watch_rate", ({ interval }) => interval < 5);
host.sample(link);
await ask("seen", { name: host.name });
host.sample(link, 1000);
host.sample(link, Date.now(), ["GPU-unknown"]);
await link.hear("error", ({ message }) => message.startsWith("gpus[0].uuid"));
told.refused = link.heard.filter(({ type }) => type === "error").map(({ code, fatal }) => [code, fatal]);

// An allocation's whole life, over a link that breaks.
await ask("allocate", { name: host.name });
const started = await host.carryOut(link, "allocation.start");
told.started = started.arguments.gpu_uuids;
link.socket.terminate();
link = await host.connect();
await ask("extend");
await host.carryOut(link, "allocation.update");
await ask("release");
const clean = (surface) => ({ surface, action: "look", found: 0, removed: 0, verified: true, detail: null });
await host.carryOut(link, "allocation.end", {
  performed: true, verified: true, simulated: false, items: SURFACES.map(clean),
});
told.released = await ask("released");

// Every way in which a link ends.
const newer = await host.connect();
told.ends.superseded = await link.end();
link = newer;
host.journal = "another journal";
host.last = host.acknowledged = 0;
link = await host.connect();
await ask("accept", { name: host.name });
told.ends.accepted = await link.end();
link = await host.connect();
link.socket.send(Buffer.alloc(262_145));
told.ends.tooLarge = await link.end();
link = await host.connect();
for (let n = 0; n < 21; n++) link.socket.send("text");
told.ends.badMessage = await link.end();
told.ends.early = await (() => {
  const impatient = new Link(() => ({ type: "heartbeat", sequence: 1, clock: 1 }));
  return impatient.end();
})();
told.ends.silent = await new Link(null).end();
host.versions = [9];
told.ends.version = await new Link(host.connecting()).end();
host.versions = [1];
told.ends.subprotocol = await new Link(host.connecting(), null).end();
const stranger = new Host("stranger");
stranger.id = host.id;
told.ends.stranger = await new Link(stranger.connecting()).end();
const again = new Host("js-1");
link = await host.connect();
await again.enroll(host.id);
told.ends.replaced = await link.end();
told.ends.revoked = await new Link(host.connecting()).end();
link = await again.connect();
await ask("retire", { name: host.name });
told.ends.retired = await link.end();
const last = new Host("js-2", []);
await last.enroll();
link = await last.connect();
await ask("full");
told.ends.overloaded = await new Link(last.connecting()).end();
await ask("stop");
told.ends.stopped = await link.end();
process.stdout.write(`${JSON.stringify({ told })}\n`);
process.exit(0);
