/** Templates as far as they can be read. */
import assert from 'node:assert/strict'

import { Template, test } from '../setup.js'

test('a template is known by its name, and others are not', async () => {
  assert.equal(await Template.exists('base'), true)
  assert.equal(await Template.exists('no-such-template'), false)
  assert.equal(await Template.aliasExists('base'), true)
  assert.equal(await Template.aliasExists('no-such-template'), false)
})
