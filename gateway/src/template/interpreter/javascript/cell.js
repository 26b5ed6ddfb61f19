// Makes a cell into what V8's console takes: types are taken off, and `import` and `export`, which
// belong into modules, become calls. What is waited for outside of functions is held on to: V8's
// console, asked by a program of its own process, does not survive that a promise which nobody can
// settle is collected. Lines stay where they are.
"use strict";

const { stripTypeScriptTypes } = require("node:module");
const acorn = require("acorn");

/** The JavaScript to run; throws a SyntaxError. */
function prepare(code) {
  const object = asObject(code);
  if (object) return object;
  try {
    return withoutModules(code, parse(code));
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
    return withoutModules(wrapped, parse(wrapped));
  } catch {
    return undefined;
  }
}

function withoutTypes(code) {
  // The first leaves everything in its place, the second knows enumerations and the like.
  for (const mode of ["strip", "transform"]) {
    try {
      const text = stripTypeScriptTypes(code, { mode });
      return withoutModules(text, parse(text));
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

function withoutModules(code, tree) {
  const edits = [];
  const edit = (node, text) => edits.push([node.start, node.end, text]);
  const load = (node) => {
    const attributes = (node.attributes ?? []).map(({ key, value }) => `${JSON.stringify(key.name ?? key.value)}: ${value.raw}`);
    const options = attributes.length > 0 ? `, {with: {${attributes.join(", ")}}}` : "";
    return `await __coppice.import(${node.source.raw}${options})`;
  };
  const call = (name, node) => {
    edit({ start: node.start, end: node.start }, `__coppice.${name}(`);
    edit({ start: node.end, end: node.end }, ")");
  };
  const visit = (node, outside) => {
    switch (node.type) {
      case "AwaitExpression":
        if (outside) call("hold", node.argument);
        break;
      case "ForOfStatement":
        if (outside && node.await) call("each", node.right);
        break;
      case "ImportDeclaration":
        return edit(node, imported(node, load(node)));
      case "ExportAllDeclaration":
        return edit(node, `${load(node)};`);
      case "ExportNamedDeclaration":
        if (!node.declaration) return edit(node, node.source ? `${load(node)};` : "");
        edit({ start: node.start, end: node.declaration.start }, "");
        break;
      case "ExportDefaultDeclaration":
        edit({ start: node.start, end: node.declaration.start }, "");
        break;
      case "ImportExpression":
        edit({ start: node.start, end: node.start + "import".length }, "__coppice.import");
        break;
      case "MetaProperty":
        if (node.meta.name === "import") edit(node, "__coppice.meta");
        break;
    }
    const still = outside && !/Function/.test(node.type);
    for (const child of Object.values(node)) {
      if (Array.isArray(child)) child.forEach((one) => one?.type && visit(one, still));
      else if (child?.type) visit(child, still);
    }
  };
  visit(tree, true);
  // From the last to the first; of two at one place, what is put before the other comes later.
  return edits
    .sort((one, other) => other[0] - one[0] || other[1] - one[1])
    .reduce((text, [start, end, put]) => {
      const lines = text.slice(start, end).split("\n").length - put.split("\n").length;
      return text.slice(0, start) + put + "\n".repeat(Math.max(lines, 0)) + text.slice(end);
    }, code);
}

function imported(node, load) {
  const name = ({ name, raw }) => name ?? raw;
  const whole = node.specifiers.find((one) => one.type === "ImportNamespaceSpecifier");
  const parts = node.specifiers
    .filter((one) => one !== whole)
    .map((one) => (one.type === "ImportDefaultSpecifier" ? `default: ${one.local.name}` : `${name(one.imported)}: ${one.local.name}`));
  const statements = [];
  if (whole) statements.push(`const ${whole.local.name} = ${load};`);
  if (parts.length > 0) statements.push(`const {${parts.join(", ")}} = ${whole?.local.name ?? load};`);
  return statements.join(" ") || `${load};`;
}

module.exports = { prepare };
