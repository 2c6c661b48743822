// An agent whose engine computes on a device, the emulated one, and loses it. Goal: what the engine was writing goes on in the engine that
// takes its place, token for token.
import { existsSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, expect, test, vi } from 'vitest'
import { tinyModel } from '../../scripts/tiny-model.ts'
import {
  dispatchRequest,
  eventStream,
  eventsOf,
  startHarness,
  textOf,
  until,
} from '../unit/backends/support/harness.ts'

const enginePath = join(import.meta.dirname, '..', '..', 'native-engine', 'build', 'penstock-engine-emulated')
const MAX_TOKENS = 24

const folders: string[] = []
afterEach(async () => {
  vi.unstubAllEnvs()
  for (const folder of folders.splice(0)) await rm(folder, { recursive: true, force: true })
})

// Where tests are built for a GPU there is no emulated engine.
test.skipIf(!existsSync(enginePath))(
  'a GPU that is lost in the middle of a stream ends its engine, and the stream goes on in the next one',
  async () => {
    const folder = await mkdtemp(join(tmpdir(), 'penstock-e2e-device-'))
    folders.push(folder)
    const modelPath = join(folder, 'model.gguf')
    const lost = join(folder, 'lost')
    await writeFile(modelPath, tinyModel())
    vi.stubEnv('SIMT_LOST_WHEN', lost)
    const config = { enginePath, modelPath, device: 'cuda', deviceMemoryMib: 32, gemm: 'auto' as const, threads: 1 }
    const harness = await startHarness({ config })
    expect(harness.failures).toEqual([])
    const ask = {
      sampling: { ...dispatchRequest().sampling, temperature: 1, topP: 0.9, topK: 40, seed: 5 },
      tellsTokens: true,
      maxOutputTokens: MAX_TOKENS,
    }
    const whole = await eventsOf(await harness.dispatch(ask))
    expect(whole.at(-1)).toMatchObject({ type: 'usage' })

    const pid = harness.agent.enginePid
    const told: number[] = []
    const first = []
    for await (const event of eventStream(await harness.dispatch(ask))) {
      first.push(event)
      if (event.type !== 'tokens') continue
      told.push(...event.ids)
      if (told.length >= 4) await writeFile(lost, '')
    }
    expect(first.at(-1)).toMatchObject({ type: 'moved', reason: 'engine_lost', usage: { outputTokens: told.length } })
    expect(told.length).toBeLessThan(MAX_TOKENS)

    await rm(lost)
    await until(() => harness.agent.enginePid !== undefined && harness.agent.enginePid !== pid)
    expect(harness.logs.find((line) => line.includes('engine_down'))).toMatch(/illegal memory access/)
    const resume = { choices: [{ choice: 0, tokenIds: told }] }
    let next: Response
    do {
      next = await harness.dispatch({ ...ask, version: 3, resume })
    } while (next.status === 503)
    const second = await eventsOf(next)
    expect(textOf(second)).toBe(textOf(whole))
    expect(second.at(-1)).toMatchObject({ type: 'usage', usage: (whole.at(-1) as { usage: object }).usage })
    await harness.stop()
  },
)
