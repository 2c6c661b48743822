// `npm run test:soak`: prefill and decode apart for minutes, an engine or an agent killed or stopped in each phase of a hand-over. Owns
// the options, the tally and the verdict; a round is handoff.ts.
import { parseArgs } from 'node:util'
import { HandoffSoak, type Outcome, plan } from './handoff.ts'

const USAGE = 'Usage: npm run test:soak -- [--minutes 10] [--seed 1]'
const EXIT_USAGE = 2

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '10' },
    seed: { type: 'string', default: '1' },
    help: { type: 'boolean', short: 'h', default: false },
  },
})
const [minutes, seed] = [Number(values.minutes), Number(values.seed)]
if (values.help || !(minutes > 0) || !Number.isInteger(seed)) {
  console.log(USAGE)
  process.exit(values.help ? 0 : EXIT_USAGE)
}

const untilMs = performance.now() + minutes * 60_000
const outcomes: Outcome[] = []
const problems: string[] = []
const soak = await HandoffSoak.start()
try {
  for (const round of plan(seed)) {
    if (performance.now() > untilMs || problems.length > 0) break
    const { number, phase, victim, signal, after, stoppedMs } = round
    const what = `${number}: ${signal} of ${victim} at ${phase}, after ${after}${signal === 'SIGSTOP' ? `, for ${stoppedMs} ms` : ''}`
    try {
      const outcome = await soak.round(round)
      outcomes.push(outcome)
      console.log(
        `${what}: ${outcome.hasStruck ? '' : 'not reached, '}${outcome.right} right, lost: ${outcome.lost.join(', ') || 'none'}`,
      )
      problems.push(...outcome.problems.map((problem) => `${what}: ${problem}`))
    } catch (error) {
      problems.push(`${what}: ${(error as Error).message}`)
    }
  }
  if (problems.length === 0) problems.push(...(await soak.books()))
} finally {
  await soak.stop()
}
const sum = (of: (outcome: Outcome) => number) => outcomes.reduce((total, outcome) => total + of(outcome), 0)
console.log(
  `${outcomes.length} rounds of seed ${seed}, ${sum(({ hasStruck }) => Number(hasStruck))} struck: ` +
    `${sum(({ right }) => right)} answers right, ${sum(({ lost }) => lost.length)} lost and said so`,
)
for (const problem of problems) console.error(`✗ ${problem}`)
if (problems.length === 0) console.log('✓ no wrong token, nothing held, everything billed once')
process.exit(problems.length === 0 ? 0 : 1)
