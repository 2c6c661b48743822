// The published package in the runtimes that are part of `npm test`: the same file, the same outcome.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { chromiumPath } from '../browser/support/chromium.ts'
import { expectTheSame } from './expected.ts'
import { foreign, ownNode, Stage } from './runtimes.ts'

let stage: Stage
beforeAll(async () => {
  stage = await Stage.make()
})
afterAll(() => stage?.discard())

describe('the published SDK', () => {
  it('lives through the death of its gateway in Node 24, and reports what it did meanwhile', async () => {
    expectTheSame(await stage.onCommandLine(ownNode()))
  })

  it('does so in Node 22', async () => {
    expectTheSame(await stage.onCommandLine(await foreign('node')))
  })

  it('does so in workerd', async () => {
    expectTheSame(await stage.inWorkerd())
  })

  const hasChromium = chromiumPath() !== undefined
  if (!hasChromium)
    console.log('No Chromium was found (apt-get install chromium, or CHROMIUM_PATH): no browser is tried.')
  it.skipIf(!hasChromium)('does so in a browser', async () => {
    const lived = await stage.inBrowser()
    expect(lived).toBeDefined()
    if (lived !== undefined) expectTheSame(lived)
  })
})
