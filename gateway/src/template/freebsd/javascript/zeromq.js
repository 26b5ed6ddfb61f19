// As much of the package `zeromq` as the JavaScript kernel needs, where there is none that is built:
// the side of ZMTP 3.0 that binds (rfc.zeromq.org/spec/23), without security, by TCP or on a Unix
// socket. Whoever connects is the kernel's own client.
"use strict";

const { randomBytes } = require("node:crypto");
const net = require("node:net");

const MORE = 1;
const LONG = 2;
const COMMAND = 4;
/** Signature, version, mechanism, no server of any mechanism, and nothing more. */
const GREETING = Buffer.concat([
  Buffer.from([0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 0]),
  Buffer.from("NULL".padEnd(20, "\0")),
  Buffer.alloc(32),
]);
/** Messages that wait for the kernel before its clients have to. */
const AHEAD = 1000;

function frame(flags, body) {
  if (body.length < 256) return Buffer.concat([Buffer.from([flags, body.length]), body]);
  const head = Buffer.alloc(9);
  head[0] = flags | LONG;
  head.writeBigUInt64BE(BigInt(body.length), 1);
  return Buffer.concat([head, body]);
}

function message(parts) {
  const last = parts.length - 1;
  return Buffer.concat(parts.map((part, at) => frame(at < last ? MORE : 0, Buffer.from(part))));
}

function ready(type) {
  const name = Buffer.from("Socket-Type");
  const length = Buffer.alloc(4);
  length.writeUInt32BE(type.length);
  const property = [Buffer.from([name.length]), name, length, Buffer.from(type)];
  return frame(COMMAND, Buffer.concat([Buffer.from("\x05READY"), ...property]));
}

/** What a peer says of itself. */
function properties(body) {
  const found = {};
  for (let at = 0; at < body.length; ) {
    const name = body.toString("latin1", at + 1, (at += 1 + body[at]));
    const length = body.readUInt32BE(at);
    found[name.toLowerCase()] = body.subarray(at + 4, (at += 4 + length));
  }
  return found;
}

/** One that has connected. */
class Peer {
  constructor(connection, type, { met, heard, left }) {
    this.connection = connection;
    this.identity = Buffer.concat([Buffer.from([0]), randomBytes(4)]);
    this.topics = [];
    this.held = Buffer.alloc(0);
    this.greeted = false;
    this.parts = [];
    Object.assign(this, { met, heard });
    connection.on("data", (data) => this.read(data));
    connection.on("error", () => connection.destroy());
    connection.on("close", () => left(this));
    connection.write(GREETING);
    connection.write(ready(type));
  }

  read(data) {
    this.held = Buffer.concat([this.held, data]);
    try {
      while (this.take());
    } catch {
      // No ZMTP, or none that is known here.
      this.connection.destroy();
    }
  }

  /** Whether there was enough for one step. */
  take() {
    const { held } = this;
    if (!this.greeted) {
      if (held.length < GREETING.length) return false;
      if (held[0] !== 0xff || held[10] < 3) throw new Error("another protocol");
      this.greeted = true;
      this.held = held.subarray(GREETING.length);
      return true;
    }
    const long = held[0] & LONG;
    const start = long ? 9 : 2;
    if (held.length < start) return false;
    const length = long ? Number(held.readBigUInt64BE(1)) : held[1];
    if (held.length < start + length) return false;
    const body = held.subarray(start, start + length);
    this.held = held.subarray(start + length);
    if (held[0] & COMMAND) this.obey(body);
    else {
      this.parts.push(body);
      if (!(held[0] & MORE)) this.heard(this, this.parts.splice(0));
    }
    return true;
  }

  obey(body) {
    const end = 1 + body[0];
    const rest = body.subarray(end);
    switch (body.toString("latin1", 1, end)) {
      case "READY": {
        const { identity } = properties(rest);
        if (identity?.length > 0) this.identity = identity;
        return this.met(this);
      }
      case "SUBSCRIBE":
        return this.heard(this, [Buffer.concat([Buffer.from([1]), rest])]);
      case "CANCEL":
        return this.heard(this, [Buffer.concat([Buffer.from([0]), rest])]);
      case "PING":
        // Two bytes of time, and what comes back.
        return this.connection.write(frame(COMMAND, Buffer.concat([Buffer.from("\x04PONG"), rest.subarray(2)])));
      case "ERROR":
        this.connection.destroy();
    }
  }

  /** As long as its connection takes; what it does not read waits here. */
  send(bytes) {
    if (!this.connection.destroyed) this.connection.write(bytes);
  }
}

class Socket {
  constructor(type, heard) {
    this.peers = new Set();
    const met = (peer) => this.peers.add(peer);
    const left = (peer) => this.peers.delete(peer);
    this.server = net.createServer({ noDelay: true }, (connection) => {
      new Peer(connection, type, { met, heard, left });
    });
  }

  bind(address) {
    const [, transport, where] = /^(ipc|tcp):\/\/(.*)$/.exec(address);
    const at = where.lastIndexOf(":");
    const place = transport === "ipc" ? [where] : [Number(where.slice(at + 1)), where.slice(0, at)];
    return new Promise((done, failed) => {
      this.server.once("error", failed);
      this.server.listen(...place, done);
    });
  }
}

/** Hears from all, and answers whom its first frame names. */
class Router extends Socket {
  constructor() {
    super("ROUTER", (peer, parts) => this.hear(peer, parts));
    this.waiting = [];
    this.wanted = undefined;
  }

  hear(peer, parts) {
    const frames = [peer.identity, ...parts];
    if (this.wanted) {
      this.wanted({ value: frames, done: false });
      this.wanted = undefined;
      return;
    }
    this.waiting.push(frames);
    if (this.waiting.length === AHEAD) this.peers.forEach(({ connection }) => connection.pause());
  }

  next() {
    if (this.waiting.length === AHEAD) this.peers.forEach(({ connection }) => connection.resume());
    if (this.waiting.length > 0) return Promise.resolve({ value: this.waiting.shift(), done: false });
    return new Promise((heard) => (this.wanted = heard));
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  async send([identity, ...parts]) {
    // Of two with one name the later is meant. Who has gone is not waited for.
    const peer = [...this.peers].findLast((peer) => peer.identity.equals(Buffer.from(identity)));
    peer?.send(message(parts));
  }
}

/** Tells all who have asked for what its first frame begins with. */
class Publisher extends Socket {
  constructor() {
    super("PUB", (peer, [body]) => {
      const topic = body.subarray(1);
      if (body[0] === 1) peer.topics.push(topic);
      const at = body[0] === 0 ? peer.topics.findIndex((one) => one.equals(topic)) : -1;
      if (at >= 0) peer.topics.splice(at, 1);
    });
  }

  async send(parts) {
    const first = Buffer.from(parts[0]);
    const asked = (topic) => first.subarray(0, topic.length).equals(topic);
    const peers = [...this.peers].filter(({ topics }) => topics.some(asked));
    if (peers.length === 0) return;
    const bytes = message(parts);
    peers.forEach((peer) => peer.send(bytes));
  }
}

module.exports = { Publisher, Router };
