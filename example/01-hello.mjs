// A first sandbox: code, a command, the end.
import { Sandbox } from '@e2b/code-interpreter'

const sandbox = await Sandbox.create()
try {
  console.log((await sandbox.runCode('sum(range(10))')).text)
  console.log((await sandbox.commands.run('id -un')).stdout.trimEnd())

  // What a run leaves stays for the next; an error is an answer, not an exception.
  await sandbox.runCode('const numbers: number[] = [1, 2, 3]', { language: 'ts' })
  console.log((await sandbox.runCode('numbers.length + nowhere', { language: 'js' })).error.name)
} finally {
  await sandbox.kill()
}
