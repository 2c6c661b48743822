// Executes the style and architecture pages: each rule over the checkout, and over a planted violation that it must find.
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { RULES, type SourceFile } from './support/tidy.ts'

const ROOT = join(import.meta.dirname, '..')
/** The rules quote what they forbid, and so do the canaries below. */
const EXEMPT = new Set(['test/support/tidy.ts', 'test/tidy.test.ts'])
const TEXT = /\.(tsx?|mjs|js|json|md|toml|sql|cc|h|cu|cuh|sh|yml|yaml|txt|cmake)$|(^|\/)(run|CMakeLists\.txt|LICENSE)$/

/** Tracked files and new ones that git does not ignore. */
function repositoryFiles(): SourceFile[] {
  const listed = execFileSync('git', ['ls-files', '-co', '--exclude-standard', '-z'], { cwd: ROOT, encoding: 'utf8' })
  return listed
    .split('\0')
    .filter((path) => TEXT.test(path) && !EXEMPT.has(path) && existsSync(join(ROOT, path)))
    .map((path) => ({ path, text: readFileSync(join(ROOT, path), 'utf8') }))
}

/** For each rule: files that break it, one by one. */
const CANARIES: Record<string, SourceFile[]> = {
  'imports go in the allowed directions': [
    { path: 'gateway/app.ts', text: "import { run } from '../backends/agent.ts'\n" },
    { path: 'protocol/units.ts', text: "export { price } from '../gateway/meter/price.ts'\n" },
    { path: 'backends/main.ts', text: "const app = await import('../gateway/app.ts')\n" },
  ],
  'device code stays in ops/ and kv/, and the scheduler computes nothing': [
    { path: 'native-engine/src/sched/plan.cc', text: '#include "ops/ops.h"\n' },
    { path: 'native-engine/src/model/decoder.cc', text: '#include <cuda_runtime.h>\n' },
  ],
  'pure files use no clock, randomness or environment': [
    { path: 'gateway/meter/price.ts', text: '// Prices. Pure.\nconst now = Date.now()\n' },
    { path: 'protocol/units.ts', text: '// Units.\nexport const id = () => crypto.randomUUID()\n' },
    { path: 'native-engine/src/sched/queue.cc', text: '// Queue.\nauto t = std::chrono::steady_clock::now();\n' },
  ],
  'no file of code has more than 500 lines': [{ path: 'gateway/app.ts', text: '// App.\n'.repeat(501) }],
  'each file begins with what it owns': [
    { path: 'gateway/app.ts', text: "import { Hono } from 'hono'\n" },
    { path: 'native-engine/src/serve/main.cc', text: '#include <cstdio>\n' },
  ],
  'no line of code is longer than 140 characters': [{ path: 'gateway/app.ts', text: `// ${'long '.repeat(30)}\n` }],
  'no path or registry of one machine': [
    { path: 'README.md', text: 'Look into /home/somebody/penstock first.\n' },
    { path: 'package-lock.json', text: '"resolved": "https://npm-registry.example.net/hono.tgz"\n' },
  ],
  'no any': [
    { path: 'gateway/app.ts', text: '// App.\nconst body = (await request.json()) as any\n' },
    { path: 'gateway/app.ts', text: '// App.\nfunction show(value: any): string {\n' },
  ],
  'no notes about work to be done': [
    { path: 'gateway/app.ts', text: '// TODO: limits\n' },
    { path: 'native-engine/src/sched/queue.cc', text: '// One queue is enough for now.\n' },
  ],
  'no test is switched off or singled out': [
    { path: 'test/unit/a.test.ts', text: "test.only('one', () => {})\n" },
    { path: 'native-engine/tests/a_test.cc', text: 'TEST(Queue, DISABLED_Order) {\n' },
  ],
  "a vendor's name stands in its provider alone": [
    { path: 'gateway/routing/pick.ts', text: "if (target.provider === 'anthropic') weight = 2\n" },
  ],
  'money stays where it is counted': [
    { path: 'gateway/routing/pick.ts', text: 'const worst = target.costNanoUsd\n' },
    { path: 'gateway/lifecycle.ts', text: 'const total = hold.nanoUsd + fee\n' },
    { path: 'backends/agent.ts', text: 'let spent: NanoUsd\n' },
  ],
  'every file is used': [{ path: 'gateway/stream/forgotten.ts', text: '// Forgotten.\n' }],
  'schemas that every start reads are made when they are used': [
    { path: 'gateway/fleet/fleet.ts', text: '// Fleet.\nconst Report = z.object({ id: z.string() })\n' },
    { path: 'protocol/report.ts', text: '// Reports.\nexport const Report: z.ZodType<Report> = z\n  .object({})\n' },
  ],
  'every exported value is used somewhere else': [
    { path: 'gateway/stream/sse.ts', text: '// Events.\nexport function neverCalled() {}\n' },
  ],
}

describe('the checkout', () => {
  const files = repositoryFiles()

  test('is read as a whole', () => {
    expect(files.length).toBeGreaterThan(100)
    expect(files.some(({ path }) => path === 'protocol/units.ts')).toBe(true)
  })

  for (const rule of RULES) {
    test(rule.name, () => {
      const findings = rule.check(files).map(({ path, line, message }) => `${path}:${line} ${message}`)
      expect(findings).toEqual([])
    })
  }
})

describe('a rule finds what it forbids', () => {
  for (const rule of RULES) {
    test(rule.name, () => {
      const canaries = CANARIES[rule.name] ?? []
      expect(canaries.length).toBeGreaterThan(0)
      for (const canary of canaries) expect(rule.check([canary])).not.toEqual([])
    })
  }
})
