// Which addresses the two networks of the generated configuration lead to, in a real workerd: also by names that lead inside.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { workerdBinary } from '../../../scripts/gateway-process.ts'
import { workerdConfig } from '../../../scripts/workerd-config.ts'

/** Asks for an address over one of its networks, and says what became of it. */
const WORKER = `export default {
  async fetch(request, env) {
    const { network, url } = await request.json()
    const way = network === 'internet' ? env.INTERNET : globalThis
    try {
      const response = await way.fetch(url, { signal: AbortSignal.timeout(5000) })
      return new Response(await response.text())
    } catch (error) {
      // Of an address that the network refuses workerd tells its log alone; of one that nobody answers at it tells the Worker.
      return new Response(error.message.startsWith('internal error') ? 'refused' : error.message)
    }
  },
}`

let dir: string
let inside: Server
let port: number
let workerd: ChildProcess
let gateway: string

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'penstock-networks-'))
  inside = createServer((_, response) => response.end('inside')).listen(0, '127.0.0.1')
  await once(inside, 'listening')
  port = (inside.address() as AddressInfo).port
  await writeFile(join(dir, 'index.js'), WORKER)
  await mkdir(join(dir, 'objects'))
  const config = workerdConfig({
    wranglerToml: 'name = "networks"\ncompatibility_date = "2026-11-09"',
    modules: [{ name: 'index.js', path: 'index.js' }],
    secrets: [],
    storageDir: join(dir, 'objects'),
    address: '127.0.0.1:0',
  })
  await writeFile(join(dir, 'config.capnp'), config)
  workerd = spawn(
    workerdBinary(join(import.meta.dirname, '../../..')),
    ['serve', join(dir, 'config.capnp'), '--control-fd=3'],
    { stdio: ['ignore', 'ignore', 'ignore', 'pipe'] },
  )
  const control = workerd.stdio[3]
  if (control === null || control === undefined) throw new Error('no control descriptor')
  for await (const line of createInterface({ input: control as NodeJS.ReadableStream })) {
    const event = JSON.parse(line) as { event: string; port?: number }
    if (event.event !== 'listen') continue
    gateway = `http://127.0.0.1:${event.port}`
    break
  }
})

afterAll(async () => {
  workerd.kill()
  inside.close()
  await rm(dir, { recursive: true, force: true })
})

async function asked(network: 'internet' | 'outside', host: string): Promise<string> {
  const body = JSON.stringify({ network, url: `http://${host}:${port}/` })
  return (await fetch(gateway, { method: 'POST', body })).text()
}

test.each([['127.0.0.1'], ['localhost'], ['[::ffff:127.0.0.1]']])(
  'what is at %s is reached by what is meant to be inside, and by nothing else',
  async (host) => {
    expect(await asked('outside', host)).toBe('inside')
    expect(await asked('internet', host)).toBe('refused')
  },
)

test.each([['[fec0::1]'], ['[::127.0.0.1]'], ['[::ffff:0:127.0.0.1]'], ['[64:ff9b::10.0.0.1]'], ['[2002:7f00:1::]']])(
  '%s is no public address',
  async (host) => {
    expect(await asked('internet', host)).toBe('refused')
  },
)

test.each([
  ['169.254.169.254'],
  ['168.63.129.16'],
  ['100.100.100.200'],
  ['[fd00:ec2::254]'],
  ['[fe80::1]'],
  ['[64:ff9b::169.254.169.254]'],
])('%s is reached by nobody', async (host) => {
  expect(await asked('outside', host)).toBe('refused')
  expect(await asked('internet', host)).toBe('refused')
})
