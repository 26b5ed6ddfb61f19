/**
 * The public methods and functions of the package `e2b`, and what `@e2b/code-interpreter` adds to a
 * sandbox, read from the declarations they are published with: a class there says what is private,
 * which its JavaScript does not. Errors are left out, having none.
 */
import { readFileSync } from 'node:fs'

import * as e2b from 'e2b'

const CODE = '@e2b/code-interpreter'

const read = (name) => readFileSync(new URL(`node_modules/${name}`, import.meta.url), 'utf8')
const version = (name) => JSON.parse(read(`${name}/package.json`)).version

export const VERSION = version('e2b')
export const VERSION_WITH_CODE = `${VERSION} with ${CODE} ${version(CODE)}`

// How a user comes by an instance of each; the others are named after their class.
const INSTANCES = {
  Filesystem: 'sandbox.files',
  Commands: 'sandbox.commands',
  Pty: 'sandbox.pty',
  Git: 'sandbox.git',
  TemplateBase: 'template',
}
const CLASSES = { SandboxApi: 'Sandbox', TemplateBase: 'Template' }

// Parts of the SDK itself: nothing a user calls.
const INTERNAL = /^(ClientFactory|\w*ApiClient|\w*ConnectionConfig|Paginator)$/

/** One `{owner, isStatic, member, name}` for every public method and, without owner, function. */
export function publicMethods() {
  const declarations = read('e2b/dist/index.d.ts')
  const found = new Map(methodsIn(declarations).map((method) => [method.name, method]))
  for (const [, name] of declarations.matchAll(/^declare function (\w+)/gm)) {
    if (name in e2b) found.set(name, { owner: null, isStatic: true, member: name, name })
  }
  return [...found.values()]
}

/** Those of a sandbox for code besides: its other classes ask nothing of anybody. */
export function codeMethods() {
  const found = methodsIn(read(`${CODE}/dist/index.d.ts`))
  const own = found.filter(({ owner }) => owner === 'Sandbox')
  return [...new Map(own.map((method) => [method.name, method])).values()]
}

function methodsIn(declarations) {
  const found = []
  const classes = /^declare (?:abstract )?class (\w+)(?: extends (\w+))?[^{]*\{\n([\s\S]*?)^\}/gm
  for (const [, owner, base, body] of declarations.matchAll(classes)) {
    if (INTERNAL.test(owner) || /Error$/.test(base ?? '')) continue
    const members = /^ {2}(static |abstract )?([a-z]\w*)(?:<[^\n(]*>)?\(/gm
    for (const [, modifier, member] of body.matchAll(members)) {
      if (member === 'constructor') continue
      const isStatic = modifier === 'static '
      const instance = INSTANCES[owner] ?? owner[0].toLowerCase() + owner.slice(1)
      const name = `${isStatic ? (CLASSES[owner] ?? owner) : instance}.${member}`
      found.push({ owner, isStatic, member, name })
    }
  }
  return found
}
