// `npm run build:engine`: brings the engine of this checkout up to date, with CUDA where there is a GPU, beside whatever runs. Owns what is
// printed; the build is engine-build.ts.
import { join, relative } from 'node:path'
import { buildEngine } from './engine-build.ts'
import { createProgress } from './progress.ts'

const ROOT = join(import.meta.dirname, '..')
const EXIT_INTERRUPTED = 130

const stopping = new AbortController()
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => stopping.abort())
const progress = createProgress()
const step = progress.step('Engine')
let device = 'for the processor'
try {
  const dir = await buildEngine({
    sourceDir: join(ROOT, 'native-engine'),
    buildDir: join(ROOT, 'native-engine', 'build'),
    tests: false,
    target: 'penstock-engine',
    signal: stopping.signal,
    onPercent: (percent) => step.update(`compiling ${percent}%`),
    onWait: (pid) => step.update(`waiting for process ${pid}, which builds it`),
    onCuda: (detail) => {
      device = detail
    },
  })
  step.done()
  progress.pause()
  console.log(`Built ${relative(ROOT, join(dir, 'penstock-engine'))}, ${device}.`)
} catch (error) {
  step.failed()
  progress.pause()
  console.error(`\npenstock: ${(error as Error).message}`)
  process.exitCode = stopping.signal.aborted ? EXIT_INTERRUPTED : 1
}
if (process.connected) process.disconnect()
