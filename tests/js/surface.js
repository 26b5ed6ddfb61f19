/**
 * The public methods and functions of the package `e2b`, read from the declarations it is published with: a class
 * there says what is private, which its JavaScript does not. Errors are left out, having none.
 */
import { readFileSync } from 'node:fs'

import * as e2b from 'e2b'

const DECLARATIONS = new URL('node_modules/e2b/dist/index.d.ts', import.meta.url)

export const VERSION = JSON.parse(
  readFileSync(new URL('node_modules/e2b/package.json', import.meta.url)),
).version

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
  const found = new Map()
  const classes = /^declare (?:abstract )?class (\w+)(?: extends (\w+))?[^{]*\{\n([\s\S]*?)^\}/gm
  const declarations = readFileSync(DECLARATIONS, 'utf8')
  for (const [, owner, base, body] of declarations.matchAll(classes)) {
    if (INTERNAL.test(owner) || /Error$/.test(base ?? '')) continue
    const members = /^ {2}(static |abstract )?([a-z]\w*)(?:<[^\n(]*>)?\(/gm
    for (const [, modifier, member] of body.matchAll(members)) {
      if (member === 'constructor') continue
      const isStatic = modifier === 'static '
      const instance = INSTANCES[owner] ?? owner[0].toLowerCase() + owner.slice(1)
      const name = `${isStatic ? (CLASSES[owner] ?? owner) : instance}.${member}`
      found.set(name, { owner, isStatic, member, name })
    }
  }
  for (const [, name] of declarations.matchAll(/^declare function (\w+)/gm)) {
    if (name in e2b) found.set(name, { owner: null, isStatic: true, member: name, name })
  }
  return [...found.values()]
}
