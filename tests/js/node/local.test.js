/** Methods that ask nobody: recorded like the others, so that the table has them all. */
import assert from 'node:assert/strict'

import {
  LogEntry,
  Secret,
  Template,
  defaultBuildLogger,
  sandboxFor,
  test,
  waitForPort,
} from '../setup.js'

test('a template is written down as JSON and as a Dockerfile', async () => {
  const template = Template()
    .fromImage('debian:12')
    .runCmd('true')
    .setStartCmd('true', waitForPort(80))
  assert.equal(JSON.parse(await Template.toJSON(template)).fromImage, 'debian:12')
  assert.match(Template.toDockerfile(template), /^FROM debian:12\nRUN true/)
  assert.match(waitForPort(80).getCmd(), /:80/)
})

test('a log entry has its text', () => {
  assert.match(new LogEntry(new Date(), 'info', 'built').toString(), /built/)
  assert.equal(typeof defaultBuildLogger(), 'function')
})

test('a placeholder for a secret and for a token is text', async () => {
  assert.match(Secret.fill('s'), /s/)
  const token = { audience: 'a', tokenType: 'JWT-SVID' }
  assert.deepEqual(Secret.iamToken(token), token)
})

test('a sandbox without MCP has no token for it', async (t) => {
  const sandbox = await sandboxFor(t)
  await assert.rejects(sandbox.getMcpToken(), /no such file|not found|does not exist/i)
  await sandbox.files.write('/etc/mcp-gateway/.token', 'secret', { user: 'root' })
  assert.equal(await sandbox.getMcpToken(), 'secret')
})
