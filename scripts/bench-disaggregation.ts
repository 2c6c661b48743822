// `npm run bench:disaggregation`: one engine that does everything against one that prefills and one that decodes, on the same
// cores, through the whole system. Owns the options, starting the systems in turn and where results go; the load is
// bench/disaggregation/mix.ts.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import { type Endpoint, type Mix, type MixResult, runMix } from '../bench/disaggregation/mix.ts'
import { markdownOf, type Round } from '../bench/disaggregation/report.ts'
import { commitName, machineName } from '../bench/engine/machine.ts'
import { watchOthers } from '../bench/gateway/share.ts'
import { writeDocsTable } from './docs-table.ts'
import { DEFAULT_MODEL } from './options.ts'
import { freePort } from './postgres.ts'

const ROOT = join(import.meta.dirname, '..')
const USAGE = `Usage: npm run bench:disaggregation -- [--rounds N] [--model NAME|PATH] [--together ENGINES] [--apart ENGINES]
  [--streams N] [--stream-tokens N] [--prompts N] [--prompt-tokens N] [--write-docs]`

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    model: { type: 'string', default: DEFAULT_MODEL },
    together: { type: 'string', default: 'both' },
    apart: { type: 'string', default: 'prefill,decode' },
    streams: { type: 'string', default: '4' },
    'stream-tokens': { type: 'string', default: '600' },
    prompts: { type: 'string', default: '2' },
    'prompt-tokens': { type: 'string', default: '4096' },
    'write-docs': { type: 'boolean', default: false },
    help: { type: 'boolean', short: 'h', default: false },
  },
})
if (values.help) {
  console.log(USAGE)
  process.exit(0)
}
const whole = (text: string): number => {
  const number = Number(text)
  if (!Number.isInteger(number) || number < 1) throw new Error(USAGE)
  return number
}
const mix: Mix = {
  streams: whole(values.streams),
  streamTokens: whole(values['stream-tokens']),
  prompts: whole(values.prompts),
  promptTokens: whole(values['prompt-tokens']),
  promptOutputTokens: 8,
  pauseMs: 1000,
}
/** A short one of each kind, so that nothing is measured cold. */
const WARM_UP: Mix = { ...mix, streams: 1, streamTokens: 48, prompts: 1, promptTokens: 512, pauseMs: 0 }

const others = watchOthers(availableParallelism())
const rounds: Round[] = []
for (let round = 1; round <= whole(values.rounds); round++) {
  const together = await measure(values.together)
  const apart = await measure(values.apart)
  rounds.push({ together, apart })
  console.log(`round ${round} of ${values.rounds}`)
}
const report = markdownOf({
  machine: machineName(),
  commit: commitName(ROOT),
  date: new Date().toISOString().slice(0, 10),
  model: values.model,
  mix,
  arrangements: { together: `--engines ${values.together}`, apart: `--engines ${values.apart}` },
  rounds,
  foreignShare: others(),
})
console.log(`\n${report}`)
if (values['write-docs']) await writeDocsTable('disaggregation', report)

async function measure(engines: string): Promise<MixResult> {
  const dataDir = await mkdtemp(join(tmpdir(), 'penstock-roles-'))
  const args = [
    '--json',
    '--data',
    dataDir,
    '--port',
    String(await freePort()),
    '--model',
    values.model,
    '--engines',
    engines,
  ]
  const launcher = spawn(process.execPath, [join(ROOT, 'scripts', 'start.ts'), ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  try {
    const endpoint = await readyOf(launcher)
    await runMix(endpoint, WARM_UP)
    return await runMix(endpoint, mix)
  } finally {
    const gone = launcher.exitCode === null ? once(launcher, 'exit') : undefined
    launcher.kill('SIGINT')
    await gone
    await rm(dataDir, { recursive: true, force: true })
  }
}

/** @throws Error with the launcher's last words where it ends before it is ready */
async function readyOf(launcher: ChildProcess): Promise<Endpoint> {
  const said: string[] = []
  createInterface({ input: launcher.stderr as NodeJS.ReadableStream }).on('line', (line) => said.push(line))
  return await new Promise<Endpoint>((resolve, reject) => {
    createInterface({ input: launcher.stdout as NodeJS.ReadableStream }).on('line', (line) => {
      const event = JSON.parse(line) as Endpoint & { event: string }
      if (event.event === 'ready') resolve(event)
    })
    launcher.on('exit', (code) => reject(new Error(`npm start ended with ${code}:\n${said.slice(-20).join('\n')}`)))
  })
}
