// A GPU that is asked for and cannot be had. The tools are shell scripts in a PATH of their own.
import { existsSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, describe, expect, test, vi } from 'vitest'
import { buildEngine, NoCuda } from '../../../scripts/engine-build.ts'

const folders: string[] = []
afterEach(async () => {
  vi.unstubAllEnvs()
  for (const folder of folders.splice(0)) await rm(folder, { recursive: true, force: true })
})

/** What is missing in the words of the refusal; the build folder must not have been made. */
async function refusal(programs: Record<string, string>, env: Record<string, string> = {}): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'penstock-engine-build-'))
  folders.push(dir)
  const all = { cmake: 'exit 1', make: 'exit 1', 'c++': 'exit 1', ...programs }
  for (const [name, script] of Object.entries(all))
    await writeFile(join(dir, name), `#!/bin/sh\n${script}\n`, { mode: 0o755 })
  vi.stubEnv('PATH', dir)
  vi.stubEnv('PENSTOCK_CUDA', env.PENSTOCK_CUDA ?? '')
  const buildDir = join(dir, 'build')
  const options = { sourceDir: dir, buildDir, tests: false, needsCuda: true, signal: AbortSignal.timeout(10_000) }
  const error = await buildEngine(options).catch((thrown: unknown) => thrown)
  expect(existsSync(buildDir)).toBe(false)
  expect(error).toBeInstanceOf(NoCuda)
  expect((error as NoCuda).message).toContain('--device cpu')
  return (error as NoCuda).missing
}

describe('an engine that is to compute on a GPU', () => {
  test('is refused before anything is built where it would be built without CUDA, and what is missing is said', async () => {
    expect(await refusal({ nvcc: 'exit 0' })).toBe('nvidia-smi cannot be found')
    expect(await refusal({ nvcc: 'exit 0', 'nvidia-smi': 'exit 9' })).toBe('nvidia-smi does not answer')
    expect(await refusal({ nvcc: 'exit 0', 'nvidia-smi': 'exit 0' })).toBe('nvidia-smi shows no GPU')
    expect(await refusal({ nvcc: 'exit 0', 'nvidia-smi': 'echo A GPU' }, { PENSTOCK_CUDA: 'OFF' })).toBe(
      'PENSTOCK_CUDA is OFF in the environment',
    )
  })
})
