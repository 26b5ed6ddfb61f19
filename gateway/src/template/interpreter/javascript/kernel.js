// A Jupyter kernel for JavaScript and TypeScript: `node kernel.js CONNECTION_FILE`.
//
// Cells run here, on the main thread, so that they find the process as any program does. Whoever
// talks to clients (`wire.js`) has a thread of its own, and answers and interrupts while a cell
// keeps this one busy. V8's own console evaluates the cells: variables may be declared again.
"use strict";

const inspector = require("node:inspector");
const { createRequire } = require("node:module");
const path = require("node:path");
const { pathToFileURL } = require("node:url");
const { inspect } = require("node:util");
const vm = require("node:vm");
const { Worker, MessageChannel } = require("node:worker_threads");

/** Output that may be on its way before a cell that writes more has to wait. */
const AHEAD = 1 << 18;
/** What a message weighs beside its text. */
const MESSAGE = 100;

const ahead = new Int32Array(new SharedArrayBuffer(4));
const { port1: port, port2 } = new MessageChannel();
const wire = new Worker(path.join(__dirname, "wire.js"), {
  workerData: { connection: process.argv[2], port: port2, ahead },
  transferList: [port2],
});
wire.on("exit", (code) => process.exit(code));

// What a cell prints.
for (const name of ["stdout", "stderr"]) {
  process[name].write = (chunk, encoding, done) => {
    const text =
      typeof chunk === "string" ? chunk : Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength).toString();
    print(name, text);
    const called = typeof encoding === "function" ? encoding : done;
    if (called) process.nextTick(called);
    return true;
  };
}

function print(name, text) {
  while (Atomics.load(ahead, 0) > AHEAD) Atomics.wait(ahead, 0, Atomics.load(ahead, 0), 100);
  const weight = text.length + MESSAGE;
  Atomics.add(ahead, 0, weight);
  port.postMessage({ type: "stream", name, text, weight });
}

// What a cell may call.
const here = path.join(process.cwd(), "[cell].js");
const importing = { filename: here, importModuleDynamically: vm.constants.USE_MAIN_CONTEXT_DEFAULT_LOADER };
const hidden = {
  import: vm.compileFunction("return (name, options) => import(name, options)", [], importing)(),
  meta: { dirname: path.dirname(here), filename: here, url: pathToFileURL(here).href },
  came,
};
Object.defineProperty(globalThis, "__coppice", { value: Object.freeze(hidden) });
globalThis.require = createRequire(here);
globalThis.display = (value) => {
  port.postMessage({ type: "display", data: bundle(value) });
};

/** A value in all the ways it can be shown. */
function bundle(value) {
  const data = { "text/plain": inspect(value) };
  const ways = { _toHtml: "text/html", _toSvg: "image/svg+xml", _toPng: "image/png", _toJpeg: "image/jpeg" };
  if (value !== null && typeof value === "object") {
    for (const [way, type] of Object.entries(ways)) {
      if (typeof value[way] === "function") data[type] = String(value[way]());
    }
    if (typeof value._toMime === "function") Object.assign(data, value._toMime());
    if (Array.isArray(value) || Object.getPrototypeOf(value) === Object.prototype) {
      try {
        data["application/json"] = JSON.parse(JSON.stringify(value));
      } catch {
        // It has cycles or big integers, and is shown as text.
      }
    }
  }
  return JSON.parse(JSON.stringify(data));
}

function failure(error) {
  const stack = error instanceof Error && typeof error.stack === "string" ? error.stack : inspect(error);
  // What lies below the cell's own frames is this file's.
  const frames = stack.split("\n").filter((line) => !/ \(?node:internal\/|node:inspector|\[nodejs\./.test(line) && !line.includes(__dirname));
  const name = error instanceof Error ? String(error.name) : "Error";
  const value = error instanceof Error ? String(error.message) : inspect(error);
  return { ename: name, evalue: value, traceback: frames };
}

/** Called by V8 with what a cell came to, which may be a promise of it, in brackets. */
function came(id, waits, threw, value) {
  if (threw || !waits) return ended(id, threw, value);
  Promise.prototype.then.call(
    value,
    (result) => ended(id, false, result?.[0]),
    (error) => ended(id, true, error),
  );
}

function ended(id, threw, value) {
  let told;
  try {
    if (threw) told = { error: failure(value) };
    else told = value === undefined ? {} : { data: bundle(value) };
  } catch (error) {
    told = { error: failure(error) };
  }
  port.postMessage({ type: "ended", id, ...told });
}

let session = new inspector.Session();
session.connect();
let context;
session.on("Runtime.executionContextCreated", ({ params }) => (context ??= params.context.id));
session.post("Runtime.enable");
// So that it does not keep what is printed.
session.post("Runtime.disable");

function run(id, code, waits) {
  const options = { expression: code, replMode: true, objectGroup: "cell" };
  session.post("Runtime.evaluate", options, (failed, evaluated) => {
    // Then it was interrupted, and the other thread knows.
    if (failed) return;
    const details = evaluated.exceptionDetails;
    const { objectId, value, unserializableValue } = details?.exception ?? evaluated.result;
    session.post("Runtime.callFunctionOn", {
      functionDeclaration: "function (...what) { __coppice.came(...what) }",
      executionContextId: context,
      arguments: [{ value: id }, { value: waits }, { value: details !== undefined }, { objectId, value, unserializableValue }],
    });
    session.post("Runtime.releaseObjectGroup", { objectGroup: "cell" });
  });
}

port.on("message", (message) => {
  if (message.type === "run") return run(message.id, message.code, message.waits);
  // What was interrupted may have left a question that nobody can answer any more, which would be
  // told to this program when it is collected, and end it.
  session.disconnect();
  session = new inspector.Session();
  session.connect();
  port.postMessage({ type: "awake", id: message.id });
});

// A program would end here; a kernel says what happened and goes on.
for (const event of ["uncaughtException", "unhandledRejection"]) {
  process.on(event, (error) => print("stderr", `${failure(error).traceback.join("\n")}\n`));
}
// Interrupts come as messages.
process.on("SIGINT", () => {});
