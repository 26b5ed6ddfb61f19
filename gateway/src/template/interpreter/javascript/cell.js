// Makes a cell into what V8's console takes. Types are taken off. `import` and `export`, which belong
// into modules, become calls and assignments. A cell that waits outside of functions becomes the call
// of a function that waits, with its variables declared outside: the console can wait by itself, but
// asked by a program of its own process it does not survive that a promise which nobody can settle
// any more is collected. Lines stay where they are.
"use strict";

const { stripTypeScriptTypes } = require("node:module");
const acorn = require("acorn");

/** The JavaScript to run, and whether its value is a promise of the cell's; throws a SyntaxError. */
function prepare(code) {
  const object = asObject(code);
  if (object) return object;
  try {
    return rewritten(code, parse(code));
  } catch (wrong) {
    const typed = withoutTypes(code);
    if (typed === undefined) throw new SyntaxError(wrong.message);
    return typed;
  }
}

/** `{a: 1}` is meant to be an object, though it is a block. */
function asObject(code) {
  if (!/^\s*\{/.test(code) || /;\s*$/.test(code)) return undefined;
  const wrapped = `(${code}\n)`;
  try {
    return rewritten(wrapped, parse(wrapped));
  } catch {
    return undefined;
  }
}

function withoutTypes(code) {
  // The first leaves everything in its place, the second knows enumerations and the like.
  for (const mode of ["strip", "transform"]) {
    try {
      const text = stripTypeScriptTypes(code, { mode });
      return rewritten(text, parse(text));
    } catch {
      // Neither is TypeScript.
    }
  }
  return undefined;
}

function parse(code) {
  const options = { ecmaVersion: "latest", allowAwaitOutsideFunction: true, allowHashBang: true };
  try {
    return acorn.parse(code, { ...options, sourceType: "module" });
  } catch (wrong) {
    try {
      // What only strict code forbids.
      return acorn.parse(code, { ...options, sourceType: "script" });
    } catch {
      throw wrong;
    }
  }
}

function rewritten(code, tree) {
  const cell = { code, edits: [], waits: false };
  visit(cell, tree, true);
  if (!cell.waits) return { code: applied(cell), waits: false };
  const names = { let: [], var: [], function: [] };
  for (const statement of tree.body) outside(cell, statement.declaration ?? statement, names);
  const last = tree.body.at(-1);
  if (last?.type === "ExpressionStatement") {
    insert(cell, last.expression.start, "return [(");
    insert(cell, last.expression.end, ")]");
  }
  const declared = [
    ...names.let.map((name) => `let ${name};`),
    ...[...names.var, ...names.function].map((name) => `var ${name};`),
  ];
  // Functions are there from the first line on.
  const put = names.function.map((name) => `__put.${name}(${name});`);
  const puts = names.function.map((name) => `${name}(it) { ${name} = it; }`);
  const begin = `${declared.join(" ")} (async (__put) => { ${put.join(" ")} `;
  return { code: `${begin}${applied(cell)}\n})({ ${puts.join(", ")} })`, waits: true };
}

function edit(cell, start, end, text) {
  cell.edits.push([start, end, text]);
}

function insert(cell, at, text) {
  edit(cell, at, at, text);
}

/** From the last to the first; of two at one place, what is put before the other comes later. */
function applied({ code, edits }) {
  edits.sort((one, other) => other[0] - one[0] || other[1] - one[1]);
  return edits.reduce((text, [start, end, put]) => {
    const lines = text.slice(start, end).split("\n").length - put.split("\n").length;
    return text.slice(0, start) + put + "\n".repeat(Math.max(lines, 0)) + text.slice(end);
  }, code);
}

/** What belongs into modules, and whether anything is waited for outside of functions. */
function visit(cell, node, outer) {
  switch (node.type) {
    case "AwaitExpression":
      cell.waits ||= outer;
      break;
    case "ForOfStatement":
      cell.waits ||= outer && node.await;
      break;
    case "ImportDeclaration":
    case "ExportAllDeclaration":
      cell.waits = true;
      return edit(cell, node.start, node.end, imported(node));
    case "ExportNamedDeclaration":
      if (!node.declaration) return edit(cell, node.start, node.end, "");
      edit(cell, node.start, node.declaration.start, "");
      break;
    case "ExportDefaultDeclaration":
      edit(cell, node.start, node.declaration.start, "");
      break;
    case "ImportExpression":
      edit(cell, node.start, node.start + "import".length, "__coppice.import");
      break;
    case "MetaProperty":
      if (node.meta.name === "import") edit(cell, node.start, node.end, "__coppice.meta");
      break;
  }
  const still = outer && !/Function/.test(node.type);
  for (const child of Object.values(node)) {
    if (Array.isArray(child)) child.forEach((one) => one?.type && visit(cell, one, still));
    else if (child?.type) visit(cell, child, still);
  }
}

function imported({ source, attributes = [], specifiers = [] }) {
  const given = attributes.map(({ key, value }) => `${JSON.stringify(key.name ?? key.value)}: ${value.raw}`);
  const options = given.length > 0 ? `, {with: {${given.join(", ")}}}` : "";
  const load = `await __coppice.import(${source.raw}${options})`;
  const whole = specifiers.find((one) => one.type === "ImportNamespaceSpecifier");
  const parts = specifiers
    .filter((one) => one !== whole)
    .map((one) => `${one.imported?.name ?? one.imported?.raw ?? "default"}: ${one.local.name}`);
  const statements = [];
  if (whole) statements.push(`${whole.local.name} = ${load};`);
  if (parts.length > 0) statements.push(`({${parts.join(", ")}} = ${whole?.local.name ?? load});`);
  return `;${statements.join(" ") || `${load};`}`;
}

/** Makes declarations into assignments to what is declared outside. */
function outside(cell, node, names) {
  switch (node.type) {
    case "ImportDeclaration":
      names.let.push(...node.specifiers.map((one) => one.local.name));
      break;
    case "FunctionDeclaration":
      if (node.id) names.function.push(node.id.name);
      break;
    case "ClassDeclaration":
      if (!node.id) break;
      names.let.push(node.id.name);
      insert(cell, node.start, `;${node.id.name} = `);
      insert(cell, node.end, ";");
      break;
    case "VariableDeclaration": {
      const kind = node.kind === "var" ? "var" : "let";
      names[kind].push(...node.declarations.flatMap(({ id }) => bound(id)));
      edit(cell, node.start, node.declarations[0].start, ";void (");
      // The last may end where one without a value does: what is put first comes after.
      insert(cell, node.declarations.at(-1).end, ");");
      for (const { id, init } of node.declarations) {
        if (!init && kind === "let") insert(cell, id.end, " = undefined");
      }
      break;
    }
  }
}

/** The names that a pattern binds. */
function bound(pattern) {
  switch (pattern?.type) {
    case "Identifier":
      return [pattern.name];
    case "ObjectPattern":
      return pattern.properties.flatMap((one) => bound(one.value ?? one.argument));
    case "ArrayPattern":
      return pattern.elements.flatMap(bound);
    case "AssignmentPattern":
      return bound(pattern.left);
    case "RestElement":
      return bound(pattern.argument);
    default:
      return [];
  }
}

module.exports = { prepare };
