// The line itself: what the other tests take for granted.
import { once } from 'node:events'
import { connect, createServer } from 'node:net'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { Host } from './network.ts'

/** Answers each byte with itself. */
const ECHO = `require('node:net').createServer((socket) => socket.pipe(socket).on('error', () => {})).listen(7000, () => console.log('up'))`

let host: Host
beforeAll(async () => {
  host = await Host.add(1)
  const echo = host.start(process.execPath, ['-e', ECHO], process.env)
  await once(echo.stdout as NodeJS.ReadableStream, 'data')
})
afterAll(() => host?.remove())

async function roundTripMs(): Promise<number> {
  const socket = connect({ host: host.address, port: 7000, noDelay: true })
  await once(socket, 'connect')
  const startedMs = performance.now()
  socket.write('x')
  await once(socket, 'data')
  socket.destroy()
  return performance.now() - startedMs
}

it('delays each way, and a host reaches the hub through it', async () => {
  await host.set({ delayMs: 40 })
  expect(await roundTripMs()).toBeGreaterThanOrEqual(80)
  const server = createServer((socket) => socket.end('hub')).listen(0, host.gateway)
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  const client = host.start(
    process.execPath,
    ['-e', `require('node:net').connect(${port}, '${host.gateway}').pipe(process.stdout)`],
    process.env,
  )
  const [said] = await once(client.stdout as NodeJS.ReadableStream, 'data')
  expect(String(said)).toBe('hub')
  server.close()
})

it('lets nothing through while it is cut, and everything afterwards', async () => {
  await host.set({ delayMs: 0 })
  const socket = connect({ host: host.address, port: 7000 })
  await once(socket, 'connect')
  await host.cut()
  let heard = false
  socket.on('data', () => {
    heard = true
  })
  socket.write('x')
  await new Promise((resolve) => setTimeout(resolve, 300))
  expect(heard).toBe(false)
  const arrived = once(socket, 'data')
  await host.heal()
  await arrived
  socket.destroy()
})
