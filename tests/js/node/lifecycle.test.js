/** Creating, finding, keeping and ending sandboxes. */
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'

import { E2B, Sandbox, SandboxError, SandboxNotFoundError, ServiceBusyError } from '../setup.js'
import { eventually, gateway, gatewayFor, sandboxFor, sleep, test } from '../setup.js'

/** All pages of a listing, each as a list of sandbox ids. */
async function pages(opts) {
  const paginator = Sandbox.list(opts)
  const found = []
  while (paginator.hasNext) {
    found.push((await paginator.nextItems()).map((info) => info.sandboxId))
  }
  return found
}

const listed = async (query) => new Set((await pages({ query })).flat())
const ids = (...sandboxes) => new Set(sandboxes.map((sandbox) => sandbox.sandboxId))
const lasts = (info) => (info.endAt - info.startedAt) / 1000
const near = (value, expected, by) =>
  assert.ok(Math.abs(value - expected) < by, `${value} is not about ${expected}`)

test('a new sandbox answers at once and runs from the base template', async (t) => {
  const sandbox = await sandboxFor(t)
  assert.match(sandbox.sandboxId, /^[0-9a-f]{32}$/)
  assert.equal(await sandbox.isRunning(), true)
  assert.equal((await sandbox.commands.run('echo hello')).stdout, 'hello\n')
  const info = await sandbox.getInfo()
  assert.equal(info.sandboxId, sandbox.sandboxId)
  assert.equal(info.templateId, 'base')
  assert.equal(info.state, 'running')
  assert.deepEqual([info.cpuCount, info.memoryMB], [2, 1024])
  assert.equal(info.envdVersion, '0.6.13')
  assert.deepEqual(await Sandbox.getInfo(sandbox.sandboxId), info)
  assert.deepEqual(await Sandbox.getFullInfo(sandbox.sandboxId), info)
})

test('info tells when the sandbox started and will end', async (t) => {
  const asked = Date.now()
  const info = await (await sandboxFor(t, { timeoutMs: 77_000 })).getInfo()
  near(info.startedAt, asked, 10_000)
  near(lasts(info), 77, 2)
  const unsaid = await sandboxFor(t, { timeoutMs: undefined })
  near(lasts(await unsaid.getInfo()), 300, 2)
})

test('the sandbox names a domain of its own', async (t) => {
  const sandbox = await sandboxFor(t)
  assert.doesNotMatch(sandbox.sandboxDomain, /e2b\.(app|dev)$/)
  const host = (port) => `${port}-${sandbox.sandboxId}.${sandbox.sandboxDomain}`
  assert.equal(sandbox.getHost(8080), host(8080))
  assert.equal(sandbox.getMcpUrl(), `https://${host(50005)}/mcp`)
})

test('metadata is kept as given and listings filter by it', async (t) => {
  const run = randomUUID()
  const odd = { plain: '1', 'a&b=c d': 'x=y&z', 'ünï/çødé%': '日本 + %2F' }
  const wanted = await sandboxFor(t, { metadata: { run, ...odd, empty: '' } })
  await sandboxFor(t, { metadata: { run, plain: '1x' } })
  assert.deepEqual((await wanted.getInfo()).metadata, { run, ...odd, empty: '' })
  for (const [key, value] of Object.entries(odd)) {
    assert.deepEqual(await listed({ metadata: { run, [key]: value } }), ids(wanted))
  }
})

test('environment given at create reaches every command', async (t) => {
  const sandbox = await sandboxFor(t, { envs: { GREETING: 'hällo wörld', SHARED: 'from create' } })
  const shown = await sandbox.commands.run('echo "$GREETING/$SHARED"', {
    envs: { SHARED: 'from run' },
  })
  assert.equal(shown.stdout, 'hällo wörld/from run\n')
  const about = await sandbox.commands.run('echo $E2B_SANDBOX $E2B_SANDBOX_ID $E2B_TEMPLATE_ID')
  assert.equal(about.stdout, `true ${sandbox.sandboxId} base\n`)
})

test('listing filters by state, template and start', async (t) => {
  const metadata = { run: randomUUID() }
  const older = await sandboxFor(t, { metadata })
  await sleep(50)
  const between = new Date()
  await sleep(50)
  const newer = await sandboxFor(t, { metadata })
  const both = ids(older, newer)
  assert.deepEqual(await listed({ metadata }), both)
  assert.deepEqual(await listed({ metadata, state: ['running'] }), both)
  assert.deepEqual(await listed({ metadata, state: ['running', 'paused'] }), both)
  assert.deepEqual(await listed({ metadata, state: ['paused'] }), ids())
  assert.deepEqual(await listed({ metadata, template: 'base' }), both)
  assert.deepEqual(await listed({ metadata, template: 'no-such-template' }), ids())
  assert.deepEqual(await listed({ metadata, startedAfter: between }), ids(newer))
  const later = new Date(Date.now() + 3_600_000)
  assert.deepEqual(await listed({ metadata, startedAfter: later }), ids())
})

test('listing pages in either order, from a token, and is not disturbed by what comes', async (t) => {
  const query = { metadata: { run: randomUUID() } }
  const made = []
  for (let n = 0; n < 5; n++) made.push((await sandboxFor(t, query)).sandboxId)
  const newestFirst = made.toReversed()
  assert.deepEqual(
    (await pages({ query, limit: 2 })).map((page) => page.length),
    [2, 2, 1],
  )
  assert.deepEqual((await pages({ query, limit: 2 })).flat(), newestFirst)
  assert.deepEqual((await pages({ query, limit: 2, order: 'asc' })).flat(), made)
  assert.deepEqual(await pages({ query, limit: 5 }), [newestFirst])
  const first = Sandbox.list({ query, limit: 2 })
  await first.nextItems()
  await sandboxFor(t, query)
  const rest = await pages({ query, limit: 2, nextToken: first.nextToken })
  assert.deepEqual(rest.flat(), newestFirst.slice(2))
})

test('a sandbox ends at its deadline', async (t) => {
  const sandbox = await sandboxFor(t, { timeoutMs: 3000 })
  const due = (await sandbox.getInfo()).endAt.getTime()
  assert.equal(await sandbox.isRunning(), true)
  await eventually(async () => !(await sandbox.isRunning()))
  near(Date.now(), due + 500, 2000)
  assert.ok(!(await listed()).has(sandbox.sandboxId))
  assert.equal(await sandbox.kill(), false)
})

test('many deadlines at one instant are all kept', async () => {
  const made = await Promise.all(
    Array.from({ length: 10 }, () => Sandbox.create({ timeoutMs: 3000 })),
  )
  await eventually(
    async () => !(await Promise.all(made.map((one) => one.isRunning()))).some(Boolean),
  )
  const all = await listed()
  assert.ok(!made.some(({ sandboxId }) => all.has(sandboxId)))
})

test('a timeout is set anew, longer and shorter', async (t) => {
  const sandbox = await sandboxFor(t, { timeoutMs: 60_000 })
  await sandbox.setTimeout(600_000)
  near(((await sandbox.getInfo()).endAt - Date.now()) / 1000, 600, 10)
  await Sandbox.setTimeout(sandbox.sandboxId, 1000)
  await eventually(async () => !(await sandbox.isRunning()))
})

test('connecting finds the same sandbox and only ever extends its time', async (t) => {
  const sandbox = await sandboxFor(t, { timeoutMs: 200_000, envs: { A: '1' } })
  const end = (await sandbox.getInfo()).endAt
  await sandbox.files.write('note', 'kept')
  const again = await Sandbox.connect(sandbox.sandboxId, { timeoutMs: 10_000 })
  assert.equal(again.sandboxId, sandbox.sandboxId)
  assert.equal(await again.files.read('note'), 'kept')
  assert.equal((await again.commands.run('echo $A')).stdout, '1\n')
  assert.deepEqual((await again.getInfo()).endAt, end)
  assert.equal(await sandbox.connect({ timeoutMs: 900_000 }), sandbox)
  near(((await again.getInfo()).endAt - Date.now()) / 1000, 900, 10)
})

test('kill is idempotent and final', async (t) => {
  const sandbox = await sandboxFor(t)
  assert.equal(await Sandbox.kill(sandbox.sandboxId), true)
  assert.equal(await sandbox.kill(), false)
  assert.equal(await sandbox.isRunning(), false)
  for (const call of [
    () => Sandbox.getInfo(sandbox.sandboxId),
    () => Sandbox.setTimeout(sandbox.sandboxId, 60_000),
    () => Sandbox.connect(sandbox.sandboxId),
    () => sandbox.connect(),
  ]) {
    await assert.rejects(call, SandboxNotFoundError)
  }
})

test('what is unknown is said so by its name', async () => {
  const unknown = randomUUID().replaceAll('-', '')
  assert.equal(await Sandbox.kill(unknown), false)
  await assert.rejects(Sandbox.getInfo(unknown), SandboxNotFoundError)
  await assert.rejects(Sandbox.create('no-such-template'), (error) => {
    assert.ok(error instanceof SandboxError)
    assert.equal(error.statusCode, 404)
    assert.match(error.message, /no-such-template/)
    return true
  })
})

test('two sandboxes share nothing', async (t) => {
  const [one, other] = [await sandboxFor(t), await sandboxFor(t)]
  await one.files.write('/tmp/mine', '1')
  await one.commands.run('sleep 300', { background: true })
  assert.equal(await other.files.exists('/tmp/mine'), false)
  assert.deepEqual(await other.commands.list(), [])
})

test('the same idempotency key gives the same sandbox', async (t) => {
  const apiHeaders = { 'Idempotency-Key': randomUUID() }
  const [one, other] = [await sandboxFor(t, { apiHeaders }), await sandboxFor(t, { apiHeaders })]
  assert.equal(one.sandboxId, other.sandboxId)
})

test('a sandbox without internet says so', async (t) => {
  const sandbox = await sandboxFor(t, { allowInternetAccess: false })
  assert.equal((await sandbox.getInfo()).allowInternetAccess, false)
  const links = await sandbox.commands.run('tail -n +3 /proc/net/dev | cut -d: -f1')
  assert.equal(links.stdout.trim(), 'lo')
})

test('more sandboxes than allowed are refused as busy', async (t) => {
  const own = await gatewayFor(t, ['--max-sandboxes', '1'])
  const first = await Sandbox.create(own.opts)
  await assert.rejects(Sandbox.create(own.opts), ServiceBusyError)
  assert.equal(await first.kill(), true)
  await Sandbox.create(own.opts)
})

test('a client goes where its options point, and two do not mix', async (t) => {
  const own = await gatewayFor(t)
  const client = new E2B(own.opts)
  const sandbox = await client.Sandbox.create()
  assert.equal((await sandbox.commands.run('echo here')).stdout, 'here\n')
  assert.equal((await client.Sandbox.list().nextItems())[0].sandboxId, sandbox.sandboxId)
  assert.ok(!(await listed()).has(sandbox.sandboxId))
  assert.equal(await client.Sandbox.kill(sandbox.sandboxId), true)
})

test('health needs no key', async () => {
  const answer = await fetch(`${gateway.url}/health`)
  assert.deepEqual([answer.status, await answer.json()], [200, { status: 'healthy' }])
})
