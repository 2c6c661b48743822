// What a command works with. Owns the type, the questions that destroying commands ask, and the finding of organisations and projects
// by the names that people know; commands never touch `process`.
import { createInterface } from 'node:readline/promises'
import { z } from 'zod'
import { type Access, accessOf, type Environment } from './access.ts'
import { Api } from './api.ts'
import { type Arguments, isSet, text } from './command.ts'
import { CliFailure, EXIT, wrongUsage } from './failure.ts'
import type { Paint, Stream } from './output.ts'
import { nearestOf } from './parse.ts'

export type Terminal = {
  stdin: NodeJS.ReadableStream & AsyncIterable<Uint8Array> & { isTTY?: boolean }
  stdout: Stream
  stderr: Stream
}

export type Context = {
  env: Environment
  terminal: Terminal
  isJson: boolean
  isDryRun: boolean
  paint: Paint
  nowMs: () => number
  /** Aborted by Ctrl-C. */
  signal: AbortSignal
  access: () => Promise<Access>
  api: () => Promise<Api>
  /** The organisation that is meant. @throws CliFailure where several could be */
  organisation: () => Promise<Organisation>
  /** One line of text on standard output, now: for streams. With --json it must be JSON. */
  say: (line: string) => void
  /** On standard error. */
  warn: (line: string) => void
  /** Before something is destroyed. @throws CliFailure where nobody can be asked, or the answer is no */
  confirm: (question: string) => Promise<void>
}

const Organisation = z.object({ id: z.string(), slug: z.string(), name: z.string().nullish() })
export type Organisation = z.infer<typeof Organisation>
const Project = z.object({ id: z.string(), slug: z.string(), name: z.string().nullish() })
export type Project = z.infer<typeof Project>

export type Surroundings = {
  env: Environment
  terminal: Terminal
  paint: Paint
  signal: AbortSignal
  nowMs: () => number
  fetch?: typeof fetch
}

export function contextOf(args: Arguments, surroundings: Surroundings): Context {
  const { env, terminal, paint, signal, nowMs } = surroundings
  const isDryRun = isSet(args, 'dry-run')
  const once = <T>(make: () => Promise<T>): (() => Promise<T>) => {
    let made: Promise<T> | undefined
    return () => {
      made ??= make()
      return made
    }
  }
  const access = once(() => accessOf(args, env, terminal.stdin))
  const api = once(
    async () => new Api(await access(), { isDryRun, ...(surroundings.fetch && { fetch: surroundings.fetch }) }),
  )
  return {
    env,
    terminal,
    isJson: isSet(args, 'json'),
    isDryRun,
    paint,
    nowMs,
    signal,
    access,
    api,
    organisation: once(async () => findOrganisation(await api(), text(args, 'org') ?? env.PENSTOCK_ORG)),
    say: (line) => terminal.stdout.write(`${line}\n`),
    warn: (line) => terminal.stderr.write(`${line}\n`),
    confirm: (question) => confirm(question, args, terminal),
  }
}

async function findOrganisation(api: Api, wanted: string | undefined): Promise<Organisation> {
  const all = await api.list('/organisations', Organisation)
  if (wanted !== undefined) return named(all, wanted, 'organisation', 'penstock orgs list')
  const [only, ...more] = all
  if (only === undefined)
    throw new CliFailure(EXIT.notFound, 'There is no organisation yet.', {
      code: 'not_found',
      hint: 'penstock orgs create SLUG',
    })
  if (more.length > 0)
    throw wrongUsage(
      `There are ${all.length} organisations: ${all
        .map(({ slug }) => slug)
        .slice(0, 10)
        .join(', ')}.`,
      'Name one with --org or PENSTOCK_ORG.',
    )
  return only
}

/** @param wanted slug or id; absent: the only one. @throws CliFailure */
export async function findProject(context: Context, wanted: string | undefined): Promise<Project> {
  const { id } = await context.organisation()
  const all = await (await context.api()).list(`/organisations/${id}/projects`, Project)
  if (wanted !== undefined) return named(all, wanted, 'project', 'penstock projects list')
  const [only, ...more] = all
  if (only !== undefined && more.length === 0) return only
  if (only === undefined)
    throw new CliFailure(EXIT.notFound, 'There is no project yet.', {
      code: 'not_found',
      hint: 'penstock projects create SLUG',
    })
  throw wrongUsage(
    `There are ${all.length} projects: ${all
      .map(({ slug }) => slug)
      .slice(0, 10)
      .join(', ')}.`,
    'Name one with --project.',
  )
}

/** By id or by slug. @throws CliFailure `notFound`, with the name that was perhaps meant */
export function named<T extends { id: string; slug: string }>(
  all: readonly T[],
  wanted: string,
  what: string,
  list: string,
): T {
  const found = all.find(({ id, slug }) => id === wanted.toLowerCase() || slug === wanted)
  if (found !== undefined) return found
  const near = nearestOf(
    wanted,
    all.map(({ slug }) => slug),
  )
  throw new CliFailure(EXIT.notFound, `There is no ${what} ${JSON.stringify(wanted)}.`, {
    code: 'not_found',
    hint: near === undefined ? `\`${list}\` lists them.` : `Did you mean ${near}?`,
  })
}

/** A script is never asked: it says --yes, or nothing happens. */
async function confirm(question: string, args: Arguments, { stdin, stderr }: Terminal): Promise<void> {
  if (isSet(args, 'yes') || isSet(args, 'dry-run')) return
  if (stdin.isTTY !== true || isSet(args, 'token-stdin'))
    throw wrongUsage(
      `${question} Nobody can be asked here.`,
      'Repeat it with --yes, or with --dry-run to see what it would do.',
    )
  const lines = createInterface({ input: stdin, output: stderr as unknown as NodeJS.WritableStream })
  try {
    const answer = await lines.question(`${question} [y/N] `)
    if (!/^y(es)?$/i.test(answer.trim()))
      throw new CliFailure(EXIT.failed, 'Nothing was changed.', { code: 'declined' })
  } finally {
    lines.close()
  }
}
