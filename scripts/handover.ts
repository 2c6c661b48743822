// Replaces the gateway by its next process, with the old one's streams open to their end. Owns the order, and the Durable Objects'
// files on their way: SQLite files have one owner, so they are moved only when the old process has closed them.
//
//   background responses end (new ones wait) ─▶ old closes its objects ─▶ files move to the next folder ─▶ next gateway serves
//                                                                            old: open streams end, its calls go to the next one
//
// The old process keeps the old folder, empty: an alarm that was set there finds nothing, and fires in the next process.
import { existsSync, renameSync } from 'node:fs'
import { mkdir, readdir, readlink, rename, rm } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { HANDOVER_HEADER, HANDOVER_PATH, HandoverReply, type HandoverRequest } from '../protocol/handover.ts'

/** The list of alarms: open for as long as the process lives, so it is copied. */
const ALARMS = 'metadata.sqlite'
const ASK_TIMEOUT_MS = 10_000
const RUNS_POLL_MS = 250
/** Objects close within a moment of being told to. */
const CLOSED_WITHIN_MS = 5_000
const CLOSED_POLL_MS = 20

export type Leaver = { pid: number; origin: string; key: string; drainMs: number; objectsDir: string }

/**
 * Lets the gateway give up its objects.
 * @returns the folder that it is left with, to be removed when it has ended. @throws Error where it does not let go
 */
export async function takeObjects(leaver: Leaver, signal: AbortSignal): Promise<string> {
  const untilMs = performance.now() + leaver.drainMs
  while ((await ask(leaver, { step: 'prepare' }, signal)).runs > 0 && performance.now() < untilMs) {
    await sleep(RUNS_POLL_MS, undefined, { signal })
  }
  await ask(leaver, { step: 'leave', origin: leaver.origin, drainMs: leaver.drainMs }, signal)
  await untilClosed(leaver, leaver.objectsDir, signal)
  const leftDir = await moveObjects(leaver.objectsDir, leaver.pid)
  // An alarm may have opened a file at the very moment.
  await untilClosed(leaver, leaver.objectsDir, signal)
  return leftDir
}

async function ask({ origin, key }: Leaver, body: HandoverRequest, signal: AbortSignal): Promise<HandoverReply> {
  const response = await fetch(`${origin}${HANDOVER_PATH}`, {
    method: 'POST',
    // A connection that is kept would be the old process's still when the next one is asked.
    headers: { [HANDOVER_HEADER]: key, 'content-type': 'application/json', connection: 'close' },
    body: JSON.stringify(body),
    signal: AbortSignal.any([signal, AbortSignal.timeout(ASK_TIMEOUT_MS)]),
  })
  if (!response.ok) throw new Error(`the gateway answers ${response.status} when it is asked to make room`)
  return HandoverReply.parse(await response.json())
}

/** @throws Error where the process still has a file of an object open */
async function untilClosed({ pid }: Leaver, dir: string, signal: AbortSignal): Promise<void> {
  const untilMs = performance.now() + CLOSED_WITHIN_MS
  for (;;) {
    const open = await openFiles(pid, dir)
    if (open.length === 0) return
    if (performance.now() >= untilMs) throw new Error(`the gateway still has ${open.length} files of objects open`)
    await sleep(CLOSED_POLL_MS, undefined, { signal })
  }
}

/** Files of objects below the folder. Where the system does not tell, what the process has said is believed. */
async function openFiles(pid: number, dir: string): Promise<string[]> {
  const folder = `/proc/${pid}/fd`
  const names = await readdir(folder).catch(() => [])
  const paths = await Promise.all(names.map((name) => readlink(join(folder, name)).catch(() => '')))
  return paths.filter((path) => path.startsWith(`${dir}/`) && isObject(basename(path)))
}

const isObject = (name: string): boolean => name.includes('.sqlite') && !name.startsWith(ALARMS)

const nextOf = (objectsDir: string): string => `${objectsDir}.next`
const leftPrefix = (objectsDir: string): string => `${basename(objectsDir)}.left-`

/** Every file into a folder of its own, and that in the old one's place. @returns what is left, without a file of an object */
async function moveObjects(objectsDir: string, pid: number): Promise<string> {
  const nextDir = nextOf(objectsDir)
  for (const namespace of await foldersIn(objectsDir)) {
    const [from, to] = [join(objectsDir, namespace), join(nextDir, namespace)]
    await mkdir(to, { recursive: true, mode: 0o700 })
    for (const name of (await readdir(from)).filter(isObject).sort(basesLast))
      renameSync(join(from, name), join(to, name))
    if (existsSync(join(from, ALARMS))) await copyDatabase(join(from, ALARMS), join(to, ALARMS))
  }
  const leftDir = join(dirname(objectsDir), `${leftPrefix(objectsDir)}${pid}`)
  await rm(leftDir, { recursive: true, force: true })
  await rename(objectsDir, leftDir)
  await rename(nextDir, objectsDir)
  return leftDir
}

/** As it is after its last transaction, while another process has it open. */
async function copyDatabase(from: string, to: string): Promise<void> {
  // Loaded late: only here the launcher needs it.
  const { DatabaseSync } = await import('node:sqlite')
  const draft = `${to}.draft`
  await rm(draft, { force: true })
  const database = new DatabaseSync(from, { readOnly: true })
  try {
    database.prepare('VACUUM INTO ?').run(draft)
  } finally {
    database.close()
  }
  await rename(draft, to)
}

/** A database is where its own file is: with that, all that belongs to it has moved. */
const isBase = (name: string): boolean => name.endsWith('.sqlite')
const baseOf = (name: string): string => `${name.slice(0, name.indexOf('.sqlite'))}.sqlite`
const basesLast = (a: string, b: string): number => Number(isBase(a)) - Number(isBase(b))

/** Ends a move that was left in its middle; nothing where none was. To be called while no process has files of `objectsDir`. */
export async function endMove(objectsDir: string): Promise<void> {
  const nextDir = nextOf(objectsDir)
  if (!existsSync(nextDir)) return
  for (const namespace of await foldersIn(objectsDir)) {
    const [from, to] = [join(objectsDir, namespace), join(nextDir, namespace)]
    await mkdir(to, { recursive: true, mode: 0o700 })
    await rm(`${join(to, ALARMS)}.draft`, { recursive: true, force: true })
    const moved = new Set((await readdir(to)).filter(isBase))
    for (const name of (await readdir(from)).sort(basesLast)) {
      // What has moved is the truth. What bears its name here, a log of writes too, was made by an alarm afterwards.
      const isTaken = moved.has(baseOf(name)) || existsSync(join(to, name))
      if (!isTaken) renameSync(join(from, name), join(to, name))
    }
  }
  await rm(objectsDir, { recursive: true, force: true })
  await rename(nextDir, objectsDir)
}

/** At a start: ends a move that a killed launcher left, and removes what old processes were left with. */
export async function settleObjects(objectsDir: string): Promise<void> {
  await endMove(objectsDir)
  const parent = dirname(objectsDir)
  for (const name of await readdir(parent)) {
    if (name.startsWith(leftPrefix(objectsDir))) await rm(join(parent, name), { recursive: true, force: true })
  }
}

async function foldersIn(dir: string): Promise<string[]> {
  const entries = await readdir(dir, { withFileTypes: true }).catch(() => [])
  return entries.filter((entry) => entry.isDirectory()).map(({ name }) => name)
}
