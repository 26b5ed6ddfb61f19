// Output while the code still runs.
import { Sandbox } from '@e2b/code-interpreter'

const code = `
for (const step of [0, 1, 2]) {
  console.log('step', step)
  await new Promise((done) => setTimeout(done, 200))
}
`
const sandbox = await Sandbox.create()
try {
  await sandbox.runCode(code, {
    language: 'js',
    onStdout: ({ line }) => process.stdout.write(line),
  })
} finally {
  await sandbox.kill()
}
