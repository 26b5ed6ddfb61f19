/** What sandboxes take from the host, and whether all of it was given back. */
import { createHash } from 'node:crypto'
import { readFileSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

import { run } from './gateway.js'

const CGROUPS = '/sys/fs/cgroup'
const SLOTS = '/run/coppice/slots'
const GATEWAYS = '/run/coppice/gateways'

/** Everything of it, a line each. */
export async function hostState(gateway) {
  return [
    ...lines('/proc/self/mounts').map((mount) => `mount: ${mount}`),
    ...cgroups(CGROUPS)
      .filter((cgroup) => cgroup.includes(`/${parent(gateway)}`))
      .map((cgroup) => `cgroup: ${cgroup}`),
    ...processes(gateway).map((process) => `process: ${process}`),
    ...lines('/proc/net/unix')
      .filter((row) => row.includes(`${gateway.dataDir}/`))
      .map((row) => `unix socket: ${row.split(' ').at(-1)}`),
    ...['sandboxes', 'trash'].flatMap((place) =>
      names(join(gateway.dataDir, place)).map((name) => `directory: ${place}/${name}`),
    ),
    // Those of this process's network; /sys has those of whoever has mounted it.
    ...lines('/proc/net/dev').slice(2).map((line) => `network link: ${line.split(':')[0].trim()}`),
    // Those with a dot are spare files, to be used again.
    ...names(SLOTS)
      .filter((slot) => !slot.startsWith('.'))
      .map((slot) => `slot: ${slot}`),
    ...names(GATEWAYS)
      .filter((claim) => claim === parent(gateway))
      .map((claim) => `claim: ${claim}`),
    ...(await nftables()).map((line) => `nftables: ${line}`),
  ]
}

/** Waits until nothing is left of what came after `before`. */
export async function assertBackTo(before, gateway, patience = 30_000) {
  for (const deadline = Date.now() + patience; ; await sleep(100)) {
    const left = [...(await hostState(gateway))]
    for (const thing of before) {
      const at = left.indexOf(thing)
      if (at >= 0) left.splice(at, 1)
    }
    if (left.length === 0) return
    if (Date.now() > deadline) {
      throw new Error(`left over after ${patience} ms:\n${left.sort().join('\n')}`)
    }
  }
}

/** Host pids in a sandbox's cgroups; `part` is `envd` or `user`. */
export function processesOf(sandboxId, part = '') {
  const wanted = `coppice-${sandboxId}${part && `/${part}`}`
  return pids().filter((pid) => read(`/proc/${pid}/cgroup`).includes(wanted))
}

/** A file of /proc, empty when what it tells of is gone. */
function read(path) {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}

const lines = (path) => read(path).split('\n').filter(Boolean)
const pids = () => readdirSync('/proc').filter((name) => /^\d+$/.test(name))

function names(directory) {
  try {
    return readdirSync(directory)
  } catch {
    return []
  }
}

/** The cgroup that holds those of this gateway's sandboxes; another's may come and go. */
function parent(gateway) {
  return `coppice-gw-${createHash('sha256').update(gateway.dataDir).digest('hex').slice(0, 8)}`
}

function cgroups(directory) {
  let entries = []
  try {
    entries = readdirSync(directory, { withFileTypes: true }).filter((entry) => entry.isDirectory())
  } catch {
    // Gone while it was looked at.
  }
  return entries.flatMap(({ name }) => {
    const path = join(directory, name)
    return [...(name.startsWith('coppice') ? [path] : []), ...cgroups(path)]
  })
}

function processes(gateway) {
  return pids()
    .filter((pid) => read(`/proc/${pid}/cgroup`).includes(`/${parent(gateway)}`))
    .map((pid) => `${pid} ${read(`/proc/${pid}/cmdline`).replaceAll('\0', ' ') || ending(pid)}`)
}

/** What can still be said of a process that has no memory any more. */
function ending(pid) {
  const told = /^(Name|State|PPid|NSpid):/
  const places = lines(`/proc/${pid}/cgroup`).filter((line) => line.includes('/coppice-'))
  return [...lines(`/proc/${pid}/status`).filter((line) => told.test(line)), ...places].join(' ')
}

/** Our table without what changes by itself: counts. Empty when it is not there. */
async function nftables() {
  const shown = await run('nft', ['list', 'table', 'inet', 'coppice']).catch(() => ({ stdout: '' }))
  return shown.stdout
    .split('\n')
    .map((line) => line.replace(/packets \d+ bytes \d+|expires \S+/g, '').trim())
    .filter(Boolean)
}
