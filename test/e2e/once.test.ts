// `npm start -- --once`: one answer, its bill, and nothing left behind. With the real model where a source of it answers.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { freePort } from '../../scripts/postgres.ts'
import { LAUNCHER, TINY_MODEL } from './support/system.ts'

let dataDir: string
beforeAll(async () => {
  dataDir = await mkdtemp(join(tmpdir(), 'penstock-once-'))
})
afterAll(() => rm(dataDir, { recursive: true, force: true }))

async function startOnce(model: string, prompt: string, more: string[] = []) {
  const args = ['--data', dataDir, '--port', String(await freePort()), '--model', model, '--once', prompt, ...more]
  const child = spawn(process.execPath, [LAUNCHER, ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
  let stdout = ''
  let stderr = ''
  child.stdout.on('data', (chunk) => {
    stdout += chunk
  })
  child.stderr.on('data', (chunk) => {
    stderr += chunk
  })
  const [code] = await once(child, 'close')
  return { code, stdout, stderr }
}

/** Processes that have the data folder in their command line, without asking anybody but the kernel. */
async function processesOn(dir: string): Promise<string[]> {
  if (!existsSync('/proc')) return []
  const found: string[] = []
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    const command = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')
    if (command.includes(dir)) found.push(command.replaceAll('\0', ' '))
  }
  return found
}

const BILL = /: (\d+) input \+ (\d+) output tokens, \$(0\.\d+), first token after \d+ ms/

it('prints an answer and its bill, exits 0 and leaves no process and no lock', async () => {
  const { code, stdout, stderr } = await startOnce(TINY_MODEL, 'Rivers', ['--max-tokens', '12'])
  expect(code, stderr).toBe(0)
  const [, input, output] = BILL.exec(stdout) ?? []
  expect(Number(input)).toBeGreaterThan(0)
  expect(Number(output)).toBe(12)
  expect(await processesOn(dataDir)).toEqual([])
})

it('answers in English with the real model, where a source of it answers', async (context) => {
  const { code, stdout, stderr } = await startOnce('smollm2-135m-instruct', 'Write one sentence about rivers.')
  expect(code, stderr).toBe(0)
  if (stdout.includes(`${TINY_MODEL}:`)) {
    console.log('No source of the real model answered: tried with the built-in model alone.')
    context.skip()
  }
  expect(BILL.test(stdout)).toBe(true)
  const answer = stdout.slice(0, stdout.search(/\nsmollm2-135m-instruct:/))
  expect(answer.toLowerCase()).toContain('river')
  expect(answer).toMatch(/\b(the|of|and|a)\b/)
  expect(answer.split(/\s+/).length).toBeGreaterThan(6)
  expect(await processesOn(dataDir)).toEqual([])
})
