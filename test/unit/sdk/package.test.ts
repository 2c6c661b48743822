// What is published: every entry compiles, loads without anything installed beside it, and stays small.
import { execFileSync } from 'node:child_process'
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { build } from 'esbuild'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { installBuiltSdk, SDK } from '../../support/built-sdk.ts'

/** The promise of the package's page. */
const CORE_BYTES_MAX = 12 * 1024

type Manifest = { exports: Record<string, string | { types: string; default: string }>; dependencies?: object }

let dir: string
let manifest: Manifest
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'penstock-sdk-'))
  await installBuiltSdk(dir)
  manifest = JSON.parse(await readFile(join(SDK, 'package.json'), 'utf8'))
}, 60_000)
afterAll(() => rm(dir, { recursive: true, force: true }))

describe('the package', () => {
  it('has a file and its types behind every entry, and no dependency', async () => {
    const built = new Set(await readdir(join(dir, 'node_modules', '@penstock', 'sdk', 'dist')))
    for (const entry of Object.values(manifest.exports)) {
      if (typeof entry === 'string') continue
      for (const file of [entry.types, entry.default]) expect(built).toContain(file.replace('./dist/', ''))
    }
    expect(manifest.dependencies).toBeUndefined()
  })

  it.each(['', '/openai', '/ai-sdk', '/testing'])('loads in a bare folder: @penstock/sdk%s', (entry) => {
    const script = `import * as all from '@penstock/sdk${entry}'; console.log(Object.keys(all).sort().join())`
    const said = execFileSync(process.execPath, ['--input-type=module', '-e', script], { cwd: dir, encoding: 'utf8' })
    expect(said.trim().split(',')).toEqual(
      {
        '': ['Breaker', 'Penstock', 'PenstockError', 'StreamInterruptedError', 'answeredBy'],
        '/openai': ['penstockFetch'],
        '/ai-sdk': ['createPenstock'],
        '/testing': ['chatAnswer', 'chatPieces', 'scriptedFetch'],
      }[entry],
    )
  })

  it('asks the runtime for nothing that browsers, workers and Deno lack', async () => {
    const dist = join(dir, 'node_modules', '@penstock', 'sdk', 'dist')
    for (const name of await readdir(dist)) {
      const text = await readFile(join(dist, name), 'utf8')
      expect(text).not.toMatch(/from ['"]node:|\bprocess\.|\bBuffer\b|\brequire\(/)
    }
  })

  it(`is at most ${CORE_BYTES_MAX / 1024} KiB compressed`, async () => {
    const { outputFiles } = await build({
      entryPoints: [join(SDK, 'src', 'index.ts')],
      bundle: true,
      minify: true,
      format: 'esm',
      write: false,
    })
    const bytes = gzipSync(outputFiles[0]?.contents ?? new Uint8Array(), { level: 9 }).length
    console.log(`core: ${bytes} bytes compressed`)
    expect(bytes).toBeGreaterThan(1000)
    expect(bytes).toBeLessThanOrEqual(CORE_BYTES_MAX)
  })
})
