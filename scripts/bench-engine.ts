// `npm run bench:engine`: the engine's speed with the default model (or `-- MODEL`). Owns building the bench and finding the
// model; what is measured is native-engine/bench/engine_bench.cc.
import { spawnSync } from 'node:child_process'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { buildEngine } from './engine-build.ts'
import { obtainModel } from './model.ts'
import { parseOptions } from './options.ts'

const ROOT = join(import.meta.dirname, '..')

const [model, ...more] = process.argv.slice(2)
const parsed = parseOptions(model === undefined ? [] : ['--model', model], {
  env: process.env,
  homeDir: homedir(),
  cwd: process.env.INIT_CWD ?? process.cwd(),
})
if (parsed.kind !== 'start') throw new Error(parsed.text)
const { signal } = new AbortController()
const nativeDir = join(ROOT, 'native-engine')
const buildDir = await buildEngine({
  sourceDir: nativeDir,
  buildDir: join(nativeDir, 'build'),
  tests: false,
  target: 'engine-bench',
  signal,
})
const { path, notice } = await obtainModel({ ...parsed.options, signal })
if (notice !== undefined) console.log(notice)
const { status } = spawnSync(join(buildDir, 'engine-bench'), [path, ...more], { stdio: 'inherit' })
process.exitCode = status ?? 1
