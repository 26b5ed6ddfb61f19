/** The SDK's git helpers. The remote is a bare repository in the same sandbox. */
import assert from 'node:assert/strict'

import { CommandExitError, sandboxFor, test } from '../setup.js'

const REMOTE = '/home/user/remote.git'
const SEED = `set -e
git clone -q ${REMOTE} seed 2>/dev/null
cd seed
git config user.email a@example.com && git config user.name A
mkdir -p docs && echo '# title' > README.md && echo text > docs/über.txt
git add -A && git commit -qm first && git push -q origin HEAD:main
`

/** A sandbox with a remote of one commit, cloned to `work`. */
async function cloned(t) {
  const sandbox = await sandboxFor(t)
  await sandbox.git.init(REMOTE, { bare: true, initialBranch: 'main' })
  await sandbox.commands.run(SEED)
  await sandbox.git.clone(REMOTE, { path: 'work' })
  await sandbox.git.configureUser('B', 'b@example.com')
  return sandbox
}

test('a local repository is cloned', async (t) => {
  const { files, git } = await cloned(t)
  assert.equal(await files.read('work/docs/über.txt'), 'text\n')
  await git.clone(`file://${REMOTE}`, { path: 'shallow', branch: 'main', depth: 1 })
  const status = await git.status('shallow')
  assert.deepEqual([status.currentBranch, status.isClean], ['main', true])
})

test('a change is committed, pushed and pulled', async (t) => {
  const { commands, files, git } = await cloned(t)
  await files.write('work/new.txt', 'new')
  assert.equal((await git.status('work')).hasUntracked, true)
  await git.add('work', { files: ['new.txt'] })
  assert.equal((await git.status('work')).stagedCount, 1)
  await git.commit('work', 'second')
  await git.push('work', { remote: 'origin', branch: 'main' })
  const log = await commands.run(`git -C ${REMOTE} log --format=%s:%ae main`)
  assert.equal(log.stdout, 'second:b@example.com\nfirst:a@example.com\n')
  await git.pull('seed', { remote: 'origin', branch: 'main' })
  assert.equal(await files.read('seed/new.txt'), 'new')
})

test('branches are made, changed and deleted', async (t) => {
  const { git } = await cloned(t)
  await git.createBranch('work', 'topic')
  assert.equal((await git.branches('work')).currentBranch, 'topic')
  await git.checkoutBranch('work', 'main')
  assert.deepEqual((await git.branches('work')).branches.sort(), ['main', 'topic'])
  await git.deleteBranch('work', 'topic', { force: true })
  assert.deepEqual(await git.branches('work'), { branches: ['main'], currentBranch: 'main' })
})

test('changes are unstaged and taken back', async (t) => {
  const { files, git } = await cloned(t)
  await files.write('work/README.md', 'changed')
  await git.add('work')
  await git.reset('work', { mode: 'mixed' })
  const status = await git.status('work')
  assert.deepEqual([status.hasStaged, status.unstagedCount], [false, 1])
  await git.restore('work', { paths: ['README.md'] })
  assert.equal(await files.read('work/README.md'), '# title\n')
})

test('remotes, settings and credentials are kept', async (t) => {
  const { files, git } = await cloned(t)
  await git.remoteAdd('work', 'mirror', 'https://git.example/mirror.git')
  assert.equal(await git.remoteGet('work', 'mirror'), 'https://git.example/mirror.git')
  assert.equal(await git.remoteGet('work', 'none'), undefined)
  await git.setConfig('core.editor', 'ed', { scope: 'local', path: 'work' })
  assert.equal(await git.getConfig('core.editor', { scope: 'local', path: 'work' }), 'ed')
  assert.equal(await git.getConfig('user.name'), 'B')
  await git.dangerouslyAuthenticate({ username: 'u', password: 'p', host: 'git.example' })
  assert.match(await files.read('.git-credentials'), /https:\/\/u:p@git\.example/)
})

test('cloning what is not there fails without asking for a password', async (t) => {
  const { git } = await sandboxFor(t)
  await assert.rejects(git.clone('/home/user/nothing.git', { path: 'work' }), (error) => {
    assert.ok(error instanceof CommandExitError)
    assert.equal(error.exitCode, 128)
    return true
  })
})
