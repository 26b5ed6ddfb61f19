/** Code, run by the SDK for it: what comes back, in which form, and what stays. */
import assert from 'node:assert/strict'
import { after, before } from 'node:test'

import { InvalidArgumentError, SandboxError, TimeoutError } from '../setup.js'
import { CodeSandbox, interpreterFor, test, within } from '../setup.js'

// Its kernels take a while to start.
let shared
before(async () => (shared = await CodeSandbox.create({ timeoutMs: 600_000 })))
after(() => shared?.kill())

const run = (code, opts) => shared.runCode(code, opts)
const heard = ({ logs }) => logs.stdout.join('')

test('the last expression is the main result', async () => {
  const execution = await run('1 + 1')
  assert.deepEqual([execution.text, execution.error, execution.logs.stdout], ['2', undefined, []])
  assert.equal(execution.results.length, 1)
  assert.ok(execution.results[0].isMainResult)
  assert.deepEqual(execution.results[0].formats(), [])
  for (const nothing of ['1 + 1;', 'x = 1', 'None', '']) {
    const { text, results, error } = await run(nothing)
    assert.deepEqual([text, results, error], [undefined, [], undefined], nothing)
  }
})

test('state and count stay between runs', async () => {
  const { executionCount } = await run('kept = [1]')
  assert.equal((await run('kept.append(2); kept')).text, '[1, 2]')
  assert.equal((await run('kept')).executionCount, executionCount + 2)
})

test('everything goes to callbacks as it comes', async () => {
  const stdout = []
  const stderr = []
  const results = []
  const errors = []
  // It goes on when its first line has been heard here.
  const code = `
import pathlib, sys, time
print('first', flush=True)
for _ in range(2000):
    if pathlib.Path('/tmp/heard').exists(): break
    time.sleep(0.01)
else:
    raise TimeoutError('nobody has heard the first line')
print('second')
print('err', file=sys.stderr)
display(7)
raise RuntimeError('at last')
`
  const execution = await run(code, {
    onStdout: async (message) => {
      stdout.push(message)
      if (stdout.length === 1) await shared.files.write('/tmp/heard', '')
    },
    onStderr: (message) => void stderr.push(message),
    onResult: (result) => void results.push(result),
    onError: (error) => void errors.push(error),
  })
  assert.deepEqual(
    stdout.map(({ line, error }) => [line, error]),
    [
      ['first\n', false],
      ['second\n', false],
    ],
  )
  assert.deepEqual(
    stderr.map(({ line, error }) => [line, error]),
    [['err\n', true]],
  )
  assert.deepEqual(
    results.map(({ text, isMainResult }) => [text, isMainResult]),
    [['7', false]],
  )
  assert.deepEqual(
    errors.map(({ name, value }) => [name, value]),
    [['RuntimeError', 'at last']],
  )
  assert.equal(execution.error, errors[0])
  assert.match(execution.error.traceback, /line 11/)
  assert.deepEqual(execution.logs, { stdout: ['first\n', 'second\n'], stderr: ['err\n'] })
})

test('an exception is an error of the execution', async () => {
  for (const [code, name, value] of [
    ['1 / 0', 'ZeroDivisionError', 'division by zero'],
    ['def f(:', 'SyntaxError', 'invalid syntax'],
    ["input('? ')", 'StdinNotImplementedError', 'does not support input'],
    ["raise Exception('\\0 é \\u2028')", 'Exception', 'é \u2028'],
  ]) {
    const { error } = await run(code)
    assert.equal(error.name, name)
    assert.ok(error.value.includes(value), error.value)
    assert.ok(!error.traceback.includes('\x1b['), 'in colour')
  }
  assert.equal((await run("'still here'")).text, 'still here')
})

test('every format has its place', async () => {
  const { results } = await run(`
class Shown:
    def _repr_html_(self): return "<b>html</b>"
    def _repr_markdown_(self): return "# m"
    def _repr_svg_(self): return "<svg/>"
    def _repr_png_(self): return b"png"
    def _repr_jpeg_(self): return b"jpeg"
    def _repr_pdf_(self): return b"pdf"
    def _repr_latex_(self): return "$x$"
    def _repr_json_(self): return {"a": [1, None]}
    def _repr_javascript_(self): return "1"
    def __repr__(self): return "text"
display({"application/vnd.own+json": {"n": 1}, "text/plain": "raw"}, raw=True)
Shown()
`)
  const [raw, shown] = results
  assert.deepEqual([raw.text, raw.isMainResult], ['raw', false])
  // The SDK knows no name for it.
  assert.deepEqual(raw.raw.extra, { 'application/vnd.own+json': { n: 1 } })
  const { text, html, markdown, svg, latex, json, javascript } = shown
  assert.deepEqual([text, html, markdown, svg], ['text', '<b>html</b>', '# m', '<svg/>'])
  assert.deepEqual([latex, json, javascript], ['$x$', { a: [1, null] }, '1'])
  for (const name of ['png', 'jpeg', 'pdf']) {
    assert.equal(Buffer.from(shown[name], 'base64').toString(), name)
  }
  const formats = ['html', 'markdown', 'svg', 'png', 'jpeg', 'pdf', 'latex', 'json', 'javascript']
  assert.deepEqual(shown.formats(), formats)
  assert.ok(shown.isMainResult)
})

test('a DataFrame is its data, and a table', async () => {
  const { results } = await run(`
import pandas as pd
pd.DataFrame({"n": [1, 2], "when": pd.to_datetime(["2024-01-01T00:00:00", "2024-01-02T03:04:05"])})
`)
  assert.deepEqual(results[0].data, {
    n: [1, 2],
    when: ['2024-01-01T00:00:00', '2024-01-02T03:04:05'],
  })
  assert.match(results[0].html, /<table[\s\S]*<td>2<\/td>/)
  assert.ok(results[0].formats().includes('data'))
})

test('long output and characters of several bytes come whole', async () => {
  const text = 'añ😀\u2028日本\x85 \u0301\u2029'
  const escaped = Array.from(text, (c) => `\\U${c.codePointAt(0).toString(16).padStart(8, '0')}`)
  const execution = await run(`print("${escaped.join('')}" * 40_000)`)
  assert.ok(heard(execution) === `${text.repeat(40_000)}\n`, 'not what was printed')
  const long = heard(await run('for n in range(50): print(str(n % 10) * 999_999, flush=True)'))
  const wanted = Array.from({ length: 50 }, (_, n) => `${String(n % 10).repeat(999_999)}\n`)
  assert.ok(long === wanted.join(''), 'not what was printed')
})

// How each prints the variable A.
const PRINTS = {
  python: "import os; print(os.environ.get('A', 'none'))",
  javascript: "console.log(process.env.A ?? 'none')",
  typescript: "const a: string = process.env.A ?? 'none'; console.log(a)",
  bash: 'echo ${A-none}',
}

test('each language has the variables of its sandbox, and those of a call for as long', async (t) => {
  const sandbox = await interpreterFor(t, { envs: { A: 'the sandbox' } })
  for (const [language, code] of Object.entries(PRINTS)) {
    const printed = async (opts) => {
      const execution = await sandbox.runCode(code, { language, ...opts })
      assert.equal(execution.error, undefined, `${language}: ${execution.error?.value}`)
      return heard(execution)
    }
    assert.equal(await printed(), 'the sandbox\n', language)
    const A = 'it\'s "quoted" $HOME \\ é'
    assert.equal(await printed({ envs: { A } }), `${A}\n`, language)
    assert.equal(await printed(), 'the sandbox\n', language)
  }
})

test('a language has a context of its own', async () => {
  await run('where = "python"')
  assert.equal((await run('const where = "node"', { language: 'js' })).error, undefined)
  assert.equal((await run('where + "!"', { language: 'javascript' })).text, 'node!')
  assert.equal((await run('where')).text, 'python')
  const { error } = await run('throw new RangeError("too far")', { language: 'javascript' })
  assert.deepEqual([error.name, error.value], ['RangeError', 'too far'])
})

test('an unknown language is refused, and one with a context too', async () => {
  const before = (await shared.listCodeContexts()).length
  // A refused run leaves the SDK's timer behind, which keeps the process: a short one.
  const opts = { language: 'cobol', requestTimeoutMs: 5000 }
  await assert.rejects(run('1', opts), SandboxError)
  const [context] = await shared.listCodeContexts()
  await assert.rejects(run('1', { language: 'python', context }), InvalidArgumentError)
  assert.equal((await shared.listCodeContexts()).length, before)
})

test('code that takes too long is interrupted, and the next runs at once', async () => {
  await run("kept = 'kept'")
  for (const code of ['while True: pass', 'import time; time.sleep(1000)']) {
    await assert.rejects(run(code, { timeoutMs: 1000 }), (error) => {
      assert.ok(error instanceof TimeoutError, error)
      assert.match(error.message, /Execution timed out/)
      return true
    })
    assert.equal((await within(20_000, run('kept'))).text, 'kept')
  }
})

test('a kernel that dies is told, and the context answers again', async () => {
  await run("kept = 'kept'")
  const { error } = await run('import os; os._exit(3)')
  assert.deepEqual([error.name, error.value], ['ContextRestarting', 'Context was restarted'])
  assert.equal((await run("'kept' in globals()")).text, 'False')
})
