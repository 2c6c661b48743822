// `penstock doctor`: looks at what has to be right, says what is not and what to do, and mends what is safe to mend. Owns the list of
// checks, in the order in which one rests on another.
import { spawnSync } from 'node:child_process'
import { chmod, readdir, stat, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { dataDirOf, urlOf } from '../access.ts'
import { type Arguments, type Command, isSet } from '../command.ts'
import type { Context } from '../context.ts'
import { EXIT, type ExitCode } from '../failure.ts'
import { plain } from '../output.ts'
import { isFailure } from '../parse.ts'

type Verdict = 'good' | 'doubtful' | 'bad' | 'mended'
type Finding = { check: string; verdict: Verdict; says: string; next?: string }
/** `rests`: without these it would only say the same again. */
type Check = {
  name: string
  rests?: readonly string[]
  look: (context: Context, args: Arguments) => Promise<Omit<Finding, 'check'>>
}

const HEALTH_TIMEOUT_MS = 5_000
const NODE_MAJOR_MIN = 20
/** Below this a database, a model or a log can fail to be written. */
const DISK_BYTES_MIN = 2 * 2 ** 30
/** Rows wait some seconds as a rule. */
const ROLL_UP_DELAY_MS = 15 * 60_000

const Health = z.looseObject({ status: z.string(), fleet: z.looseObject({ reachable: z.boolean() }) })
const Backends = z.looseObject({
  data: z.array(
    z.looseObject({
      id: z.string(),
      label: z.string(),
      state: z.string(),
      models: z.array(z.looseObject({ model: z.string(), role: z.string() })),
    }),
  ),
})
const Organisation = z.looseObject({ id: z.string(), slug: z.string() })
const LedgerCheck = z.looseObject({ ok: z.boolean() })
const Backlog = z.looseObject({ dirty_buckets: z.number(), waiting_since: z.string().nullable() })

export const doctorCommand: Command = {
  path: ['doctor'],
  summary: 'Look whether everything is as it should be, and say what to do where it is not.',
  flags: {
    fix: { type: 'boolean', help: 'mend what is safe to mend: permissions of secrets, sums that wait to be made' },
  },
  examples: [
    { line: 'penstock doctor', what: 'exit code 1 where something is bad' },
    { line: 'penstock doctor --fix --json', what: 'for a script' },
  ],
  run: async (context, args) => {
    const findings: Finding[] = []
    for (const { name, look, rests } of CHECKS) {
      const missing = findings.find(({ check, verdict }) => rests?.includes(check) === true && verdict === 'bad')
      const found =
        missing === undefined
          ? await guarded(() => look(context, args))
          : ({ verdict: 'doubtful', says: `not looked at: ${missing.check} comes first` } as const)
      findings.push({ check: name, ...found })
    }
    const bad = findings.filter(({ verdict }) => verdict === 'bad')
    const exitCode: ExitCode = bad.length === 0 ? EXIT.done : EXIT.failed
    return { data: findings, lines: findings.flatMap((one) => shown(context, one)), exitCode }
  },
}

async function guarded(look: () => Promise<Omit<Finding, 'check'>>): Promise<Omit<Finding, 'check'>> {
  try {
    return await look()
  } catch (error) {
    const next = isFailure(error) ? error.hint : undefined
    return { verdict: 'bad', says: (error as Error).message, ...(next !== undefined && { next }) }
  }
}

const good = (says: string): Omit<Finding, 'check'> => ({ verdict: 'good', says })

const ON_GATEWAY = ['gateway', 'token']

const CHECKS: readonly Check[] = [
  {
    name: 'node',
    look: async () => {
      const major = Number.parseInt(process.versions.node, 10)
      if (major >= NODE_MAJOR_MIN) return good(`Node ${process.versions.node}`)
      return {
        verdict: 'bad',
        says: `Node ${process.versions.node} is too old`,
        next: `Install Node ${NODE_MAJOR_MIN} or newer.`,
      }
    },
  },
  {
    name: 'compiler',
    look: async () => {
      const missing = ['cmake', 'c++'].filter(
        (tool) => spawnSync(tool, ['--version'], { stdio: 'ignore' }).status !== 0,
      )
      if (missing.length === 0) return good('cmake and a C++ compiler are here')
      return {
        verdict: 'doubtful',
        says: `${missing.join(' and ')} cannot be run: this machine cannot build an engine`,
        next: 'Needed for `penstock up` alone: apt-get install cmake g++',
      }
    },
  },
  { name: 'data folder', look: dataFolder },
  {
    name: 'disk',
    look: async (context, args) => {
      const dir = dataDirOf(args, context.env)
      const room = await statfs(dir).catch(() => undefined)
      if (room === undefined) return good(`${dir} is not there yet`)
      const free = room.bavail * room.bsize
      const says = `${(free / 2 ** 30).toFixed(1)} GiB free at ${dir}`
      return free >= DISK_BYTES_MIN
        ? good(says)
        : { verdict: 'bad', says, next: 'Make room: a full disk stops the database.' }
    },
  },
  {
    name: 'gateway',
    look: async (context, args) => {
      const url = urlOf(args, context.env)
      const answer = await fetch(`${url}/health`, {
        signal: AbortSignal.timeout(HEALTH_TIMEOUT_MS),
        redirect: 'error',
      }).catch(() => undefined)
      const health = Health.safeParse(await answer?.json().catch(() => undefined))
      if (answer === undefined)
        return {
          verdict: 'bad',
          says: `${url} does not answer`,
          next: '`penstock up` starts it; --url says where it is.',
        }
      if (!health.success) return { verdict: 'bad', says: `${url} is no Penstock gateway`, next: 'Look at --url.' }
      return health.data.fleet.reachable
        ? good(`${url} is up`)
        : {
            verdict: 'doubtful',
            says: `${url} is up; its Fleet object does not answer`,
            next: 'Repeat it; then look into the logs of the gateway.',
          }
    },
  },
  {
    name: 'token',
    rests: ['gateway'],
    look: async (context) => {
      const { tokenFrom } = await context.access()
      await (await context.api()).list('/organisations', Organisation)
      return good(`the token from ${tokenFrom} is taken, and the database answers`)
    },
  },
  {
    name: 'fleet',
    rests: ON_GATEWAY,
    look: async (context) => {
      const { data } = await (await context.api()).get('/backends', Backends)
      const live = data.filter(({ state }) => state === 'live')
      if (data.length === 0)
        return {
          verdict: 'doubtful',
          says: 'no backend has joined: requests go to providers alone',
          next: '`penstock backends enroll`',
        }
      const lost = data
        .filter(({ state }) => state !== 'live')
        .map(({ label, id, state }) => `${label || id} (${state})`)
      if (lost.length > 0)
        return {
          verdict: live.length === 0 ? 'bad' : 'doubtful',
          says: `${live.length} of ${data.length} backends are live; not ${lost.join(', ')}`,
          next: 'Look into the logs of those agents.',
        }
      const models = [...new Set(live.flatMap((one) => one.models.map(({ model }) => model)))]
      return models.length === 0
        ? { verdict: 'bad', says: 'backends are live and serve no model', next: 'Look into the logs of their engines.' }
        : good(`${live.length} live: ${models.join(', ')}`)
    },
  },
  {
    name: 'ledger',
    rests: ON_GATEWAY,
    look: async (context) => {
      const organisations = await (await context.api()).list('/organisations', Organisation)
      for (const { id, slug } of organisations) {
        const { ok } = await (await context.api()).get('/ledger/check', LedgerCheck, { org: id })
        if (!ok)
          return {
            verdict: 'bad',
            says: `the books of ${slug} do not agree`,
            next: `penstock ledger check --org ${slug}`,
          }
      }
      return good(`the books of ${organisations.length} organisations agree to the nano-dollar`)
    },
  },
  { name: 'sums', rests: ON_GATEWAY, look: rollUps },
]

/** Whoever can read it has every secret of the installation. */
async function dataFolder(context: Context, args: Arguments): Promise<Omit<Finding, 'check'>> {
  const dir = dataDirOf(args, context.env)
  const names = await readdir(dir).catch(() => undefined)
  if (names === undefined) return good(`${dir} is not there: \`penstock up\` makes it`)
  if (!names.includes('penstock.json'))
    return { verdict: 'bad', says: `${dir} is no data folder of Penstock`, next: 'Name another one with --data.' }
  const wanted = [
    { path: dir, mode: 0o700 },
    ...['secrets.json', 'api-key']
      .filter((name) => names.includes(name))
      .map((name) => ({ path: join(dir, name), mode: 0o600 })),
  ]
  const open: { path: string; mode: number }[] = []
  for (const one of wanted) if (((await stat(one.path)).mode & 0o077) !== 0) open.push(one)
  if (open.length === 0) return good(dir)
  const says = `others of this machine can read ${open.map(({ path }) => path).join(', ')}`
  if (!isSet(args, 'fix')) return { verdict: 'bad', says, next: 'penstock doctor --fix' }
  for (const { path, mode } of open) await chmod(path, mode)
  return { verdict: 'mended', says: `${says}; not any more` }
}

async function rollUps(context: Context, args: Arguments): Promise<Omit<Finding, 'check'>> {
  const api = await context.api()
  const late: string[] = []
  for (const { id, slug } of await api.list('/organisations', Organisation)) {
    const { waiting_since: since } = await api.get('/usage/rollup', Backlog, { org: id })
    if (since === null || context.nowMs() - Date.parse(since) < ROLL_UP_DELAY_MS) continue
    late.push(slug)
    if (isSet(args, 'fix')) await api.send('POST', '/admin/v1/usage/rollup', { body: { org: id } })
  }
  if (late.length === 0) return good('usage is rolled up')
  const says = `sums of ${late.join(', ')} wait for longer than ${ROLL_UP_DELAY_MS / 60_000} minutes`
  return isSet(args, 'fix')
    ? { verdict: 'mended', says: `${says}; made now` }
    : { verdict: 'doubtful', says, next: 'penstock doctor --fix' }
}

const SIGNS = { good: ['green', '✓'], mended: ['cyan', '+'], doubtful: ['yellow', '!'], bad: ['red', '✗'] } as const

function shown({ paint }: Context, { check, verdict, says, next }: Finding): string[] {
  const [style, sign] = SIGNS[verdict]
  return [
    `${paint(style, sign)} ${check.padEnd(12)} ${plain(says)}`,
    ...(next === undefined ? [] : [`  ${''.padEnd(12)} ${paint('dim', plain(next))}`]),
  ]
}
