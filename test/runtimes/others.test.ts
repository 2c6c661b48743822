// The published package in Bun and Deno: downloads of a hundred megabytes each, so `npm run test:runtimes` alone tries them.
import { afterAll, beforeAll, describe, it } from 'vitest'
import { expectTheSame } from './expected.ts'
import { foreign, Stage } from './runtimes.ts'

let stage: Stage
beforeAll(async () => {
  stage = await Stage.make()
})
afterAll(() => stage?.discard())

describe('the published SDK', () => {
  it('lives through the death of its gateway in Bun, and reports what it did meanwhile', async () => {
    expectTheSame(await stage.onCommandLine(await foreign('bun'), ['run']))
  })

  it('does so in Deno, allowed nothing but the network', async () => {
    const args = ['run', '--no-config', '--node-modules-dir=manual', '--allow-net=127.0.0.1', '--no-prompt']
    expectTheSame(await stage.onCommandLine(await foreign('deno'), args))
  })
})
