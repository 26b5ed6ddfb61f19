/**
 * What this version answers with 501, through every method of the SDK that comes to it. A method that
 * begins to work fails here, and gets tests of its own.
 */
import assert from 'node:assert/strict'

import { Secret, Template, Volume, test } from '../setup.js'
import { waitForFile, waitForPort, waitForProcess, waitForTimeout, waitForURL } from '../setup.js'

const notYet = (error) => {
  assert.match(error.message, /^501: .* is not implemented yet/)
  return true
}

async function allNotYet(calls) {
  for (const call of calls) await assert.rejects(async () => call(), notYet, `${call}`)
}

test('there are no volumes yet', async () => {
  const volume = new Volume('vol', 'name', 'token')
  await allNotYet([
    () => Volume.create('v'),
    () => Volume.connect('v'),
    () => Volume.list(),
    () => Volume.getInfo('v'),
    () => Volume.destroy('v'),
    () => volume.list('/'),
    () => volume.makeDir('/d'),
    () => volume.getInfo('/f'),
    () => volume.exists('/f'),
    () => volume.updateMetadata('/f', { mode: 0o600 }),
    () => volume.readFile('/f'),
    () => volume.writeFile('/f', 'x'),
    () => volume.remove('/f'),
  ])
})

test('there are no secrets yet', async () => {
  await allNotYet([
    () => Secret.create('s', 'value'),
    () => Secret.update('s', 'value'),
    () => Secret.getInfo('s'),
    () => Secret.list().nextItems(),
    () => Secret.exists('s'),
    () => Secret.destroy('s'),
  ])
})

/** Templates that have, between them, every step there is. */
const TEMPLATES = [
  () =>
    Template()
      .fromBaseImage()
      .copy('package.json', '/app/')
      .copyItems([{ src: 'run.js', dest: '/app/' }]),
  () =>
    Template()
      .fromDebianImage()
      .aptInstall('curl')
      .runCmd('true')
      .setUser('user')
      .setWorkdir('/app'),
  () =>
    Template()
      .fromUbuntuImage()
      .makeDir('/d')
      .rename('/d', '/e')
      .remove('/e')
      .makeSymlink('/a', '/b'),
  () => Template().fromPythonImage().pipInstall('pip').setEnvs({ A: '1' }).skipCache(),
  () => Template().fromNodeImage().npmInstall('npm').gitClone('https://git.example/r.git', '/r'),
  () => Template().fromBunImage().bunInstall('bun').setReadyCmd(waitForTimeout(1000)),
  () => Template().fromFedoraImage().setStartCmd('true', waitForPort(80)),
  () => Template().fromAlpineImage().setStartCmd('true', waitForURL('http://localhost')),
  () => Template().fromArchImage().setStartCmd('true', waitForFile('/f')),
  () => Template().fromImage('debian:12').setStartCmd('true', waitForProcess('init')),
  () => Template().fromTemplate('base'),
  () => Template().fromTemplate('mcp-gateway').addMcpServer('exa'),
  () =>
    Template()
      .fromTemplate('devcontainer')
      .betaDevContainerPrebuild('/d')
      .betaSetDevContainerStart('/d'),
  () => Template().fromDockerfile('FROM debian:12\nRUN true'),
  () => Template().fromAWSRegistry('i', { accessKeyId: 'a', secretAccessKey: 's', region: 'r' }),
  () => Template().fromGCPRegistry('i', { serviceAccountJSON: {} }),
]

test('templates are not built yet', async () => {
  for (const template of TEMPLATES) {
    await assert.rejects(Template.build(template(), 'mine'), notYet, `${template}`)
  }
  await allNotYet([
    () => Template.buildInBackground(Template().fromBaseImage(), 'mine'),
    () => Template.getBuildStatus({ templateId: 't', buildId: 'b' }),
    () => Template.assignTags('mine:v1', 'v2'),
    () => Template.removeTags('mine', 'v1'),
    () => Template.getTags('mine'),
  ])
})
