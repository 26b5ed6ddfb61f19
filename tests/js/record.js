/**
 * Watches the public methods of the SDK, so that what works is told by the tests that ran and not by
 * hand. Works in node and in a page. How a test ended is told by `Calls.settle`; what a method calls
 * inside the SDK does not count as a use of it.
 */

const isPromise = (value) => typeof value?.then === 'function'
const isNotYet = (error) => error?.statusCode === 501 || /^501\b/.test(error?.message ?? '')

export class Calls {
  counts = {}

  /** What one test did, once its outcome is known. */
  settle(calls, testPassed) {
    for (const { name, outcome } of calls) {
      const count = (this.counts[name] ??= { passed: 0, failed: 0, not_yet: 0, refused: 0 })
      if (outcome === 'not_yet') count.not_yet++
      else if (!testPassed) count.failed++
      else count[outcome]++
    }
  }
}

/**
 * Wraps `methods` of the classes that can be reached from `seeds`, and of what these return.
 * `scope.calls()` is where the running test keeps its calls, if this is one to record, and
 * `scope.inside(body)` runs what is not. Gives the recorded form of those of `functions` that are
 * methods of nothing.
 */
export function record(methods, seeds, functions, scope) {
  const wrapped = new Set()
  // The steps of a template are no request of their own: they share the fate of its build.
  const steps = new WeakMap()

  const reach = (value) => {
    const type = typeof value === 'function' ? value : value?.constructor
    // By the prototype: `Template` is its class in another guise.
    if (!type?.prototype || wrapped.has(type.prototype)) return
    wrapped.add(type.prototype)
    for (const method of methods) {
      if (method.owner === type.name) {
        wrap(method.isStatic ? type : type.prototype, method)
      }
    }
    reach(Object.getPrototypeOf(type))
  }

  const wrap = (holder, method) => {
    const original = Object.getOwnPropertyDescriptor(holder, method.member)?.value
    if (typeof original !== 'function') return
    if (method.owner === 'TemplateBase' && !method.isStatic) {
      holder[method.member] = function (...args) {
        if (scope.calls()) steps.set(this, [...(steps.get(this) ?? []), method.name])
        return scope.inside(() => original.apply(this, args))
      }
      return
    }
    holder[method.member] = noting(method, original)
  }

  const noting = (method, original) =>
    function (...args) {
      const calls = scope.calls()
      const note = (outcome) => {
        const names = [
          method.name,
          ...(/\.build/.test(method.name) ? (steps.get(args[0]) ?? []) : []),
        ]
        calls?.push(...names.map((name) => ({ name, outcome })))
      }
      const answered = (value) => {
        note('passed')
        reach(value)
        return value
      }
      const failed = (error) => {
        note(isNotYet(error) ? 'not_yet' : 'refused')
        throw error
      }
      let result
      try {
        result = scope.inside(() => original.apply(this, args))
      } catch (error) {
        failed(error)
      }
      return isPromise(result) ? result.then(answered, failed) : answered(result)
    }

  seeds.forEach(reach)
  return Object.fromEntries(
    methods
      .filter((method) => method.owner === null)
      .map((method) => [method.name, noting(method, functions[method.name])]),
  )
}

/** What is written down of one client: a method only ever refused has not been seen to work. */
export function summary(client, version, methods, counted) {
  const calls = {}
  for (const counts of counted) {
    for (const [name, count] of Object.entries(counts)) {
      const sum = (calls[name] ??= { passed: 0, failed: 0, not_yet: 0, refused: 0 })
      for (const outcome of Object.keys(sum)) sum[outcome] += count[outcome]
    }
  }
  for (const sum of Object.values(calls)) {
    if (sum.passed) sum.passed += sum.refused
    delete sum.refused
  }
  return { client, version, surface: methods.map(({ name }) => name), calls }
}
