// The kernel's side of the Jupyter protocol, version 5.3, on a thread of its own.
"use strict";

const { createHmac, randomUUID, timingSafeEqual } = require("node:crypto");
const { readFileSync } = require("node:fs");
const inspector = require("node:inspector");
const { setTimeout: sleep } = require("node:timers/promises");
const { workerData } = require("node:worker_threads");
const zmq = require("zeromq");
const { prepare } = require("./cell.js");

/** Milliseconds after which a main thread that does not answer is taken for busy. */
const BUSY = 100;
/** Milliseconds for which what a cell prints is gathered, while it runs. */
const GATHERED = 5;
const DELIMITER = "<IDS|MSG>";
const INTERRUPTED = { ename: "KeyboardInterrupt", evalue: "the cell was interrupted", traceback: ["KeyboardInterrupt: the cell was interrupted"] };

const { port, ahead } = workerData;
const connection = JSON.parse(readFileSync(workerData.connection, "utf8"));
const session = randomUUID();
const shell = new zmq.Router();
const control = new zmq.Router();
const stdin = new zmq.Router();
const heartbeat = new zmq.Router();
const iopub = new zmq.Publisher({ sendHighWaterMark: 0 });

/** What asked for the cell that runs, or ran last: what is printed belongs to it. */
let parent = {};
/** The cell that runs: its id, and what ends it. */
let running;
let count = 0;
/** Output that has not been sent, of one stream. */
let waiting;

function sign(parts) {
  const hash = createHmac("sha256", connection.key);
  parts.forEach((part) => hash.update(part));
  return hash.digest("hex");
}

/** The last thing each socket was given: it takes one at a time. */
const sent = new Map();

function send(socket, identities, type, parent, content) {
  const header = { msg_id: randomUUID(), session, username: "kernel", date: new Date().toISOString(), msg_type: type, version: "5.3" };
  const parts = [header, parent, {}, content].map((part) => JSON.stringify(part));
  const frames = [...identities, DELIMITER, connection.key ? sign(parts) : "", ...parts];
  const done = (sent.get(socket) ?? Promise.resolve()).then(() => socket.send(frames));
  sent.set(socket, done);
  return done;
}

const publish = (type, content) => send(iopub, [type], type, parent, content);

/** The identities, header and content of a request, or undefined if it is none of our clients'. */
function read(frames) {
  const start = frames.findIndex((frame) => frame.toString() === DELIMITER);
  if (start < 0 || frames.length < start + 6) return undefined;
  const [signature, ...parts] = frames.slice(start + 1, start + 6);
  if (connection.key) {
    const expected = Buffer.from(sign(parts));
    if (expected.length !== signature.length || !timingSafeEqual(expected, signature)) return undefined;
  }
  return { identities: frames.slice(0, start), header: JSON.parse(parts[0]), content: JSON.parse(parts[3]) };
}

const info = {
  status: "ok",
  protocol_version: "5.3",
  implementation: "coppice-javascript",
  implementation_version: "1.0.0",
  language_info: { name: "javascript", version: process.versions.node, mimetype: "text/javascript", file_extension: ".js" },
  banner: `JavaScript and TypeScript in Node ${process.versions.node}`,
  help_links: [],
};

const answers = {
  kernel_info_request: () => info,
  execute_request: execute,
  interrupt_request: async () => (await interrupt(), { status: "ok" }),
  is_complete_request: () => ({ status: "unknown" }),
  complete_request: ({ cursor_pos: at }) => ({ status: "ok", matches: [], cursor_start: at, cursor_end: at, metadata: {} }),
  inspect_request: () => ({ status: "ok", found: false, data: {}, metadata: {} }),
  history_request: () => ({ status: "ok", history: [] }),
  comm_info_request: () => ({ status: "ok", comms: {} }),
  shutdown_request: ({ restart }) => ({ status: "ok", restart }),
};

async function serve(socket) {
  for await (const frames of socket) {
    const request = read(frames);
    const answer = request && answers[request.header.msg_type];
    if (!answer) continue;
    // Requests for control come while a cell runs, and what it prints stays its own.
    if (socket === shell) parent = request.header;
    const status = (state) => send(iopub, ["status"], "status", request.header, { execution_state: state });
    await status("busy");
    const content = await answer(request.content);
    flush();
    await send(socket, request.identities, request.header.msg_type.replace("request", "reply"), request.header, content);
    await status("idle");
    if (request.header.msg_type === "shutdown_request") {
      // Time for the answer to leave.
      await sleep(BUSY);
      process.exit(0);
    }
  }
}

async function execute({ code, silent, store_history: kept = !silent }) {
  if (kept) count += 1;
  if (!silent) await publish("execute_input", { code, execution_count: count });
  const { data, error } = await run(code);
  flush();
  if (error) {
    if (!silent) await publish("error", error);
    return { status: "error", execution_count: count, ...error };
  }
  if (data && !silent) await publish("execute_result", { data, metadata: {}, execution_count: count });
  return { status: "ok", execution_count: count, user_expressions: {}, payload: [] };
}

function run(code) {
  let prepared;
  try {
    prepared = prepare(code);
  } catch (error) {
    const value = error.message;
    return { error: { ename: "SyntaxError", evalue: value, traceback: [`SyntaxError: ${value}`] } };
  }
  return new Promise((end) => {
    running = { id: randomUUID(), end };
    port.postMessage({ type: "run", id: running.id, ...prepared });
  });
}

/** Ends the cell that runs; what it has begun, timers and the like, goes on. */
async function interrupt() {
  const cell = running;
  if (!cell) return;
  while (running === cell && !(await awake())) await terminate();
  if (running !== cell) return;
  running = undefined;
  cell.end({ error: INTERRUPTED });
}

let asked = 0;
const awaited = new Map();

/** Whether the main thread answers. */
function awake() {
  const id = (asked += 1);
  const answer = new Promise((known) => awaited.set(id, known));
  port.postMessage({ type: "awake?", id });
  return Promise.race([answer, sleep(BUSY, false)]).finally(() => awaited.delete(id));
}

function terminate() {
  const main = new inspector.Session();
  main.connectToMainThread();
  const done = new Promise((over) => main.post("Runtime.terminateExecution", over));
  return Promise.race([done, sleep(BUSY)]).finally(() => main.disconnect());
}

port.on("message", (message) => {
  switch (message.type) {
    case "stream":
      if (waiting?.name === message.name) {
        waiting.text += message.text;
        waiting.weight += message.weight;
      } else {
        flush();
        waiting = message;
        setTimeout(flush, GATHERED);
      }
      break;
    case "display":
      flush();
      publish("display_data", { data: message.data, metadata: {}, transient: {} });
      break;
    case "ended":
      if (running?.id === message.id) {
        const { end } = running;
        running = undefined;
        end(message);
      }
      break;
    case "awake":
      awaited.get(message.id)?.(true);
      break;
  }
});

/** Sends what was printed, before anything that came after it. */
function flush() {
  if (!waiting) return;
  const { name, text, weight } = waiting;
  waiting = undefined;
  publish("stream", { name, text }).then(() => {
    Atomics.sub(ahead, 0, weight);
    Atomics.notify(ahead, 0);
  });
}

async function main() {
  const ports = { shell: [shell], control: [control], stdin: [stdin], hb: [heartbeat], iopub: [iopub] };
  for (const [name, [socket]] of Object.entries(ports)) {
    const { transport, ip } = connection;
    await socket.bind(`${transport}://${ip}${transport === "ipc" ? "-" : ":"}${connection[`${name}_port`]}`);
  }
  (async () => {
    for await (const frames of heartbeat) await heartbeat.send(frames);
  })();
  serve(control);
  await serve(shell);
}

main();
