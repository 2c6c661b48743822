import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { connect } from 'node:net'
import { expect, onTestFinished, test } from 'vitest'
import { openListeningSocket } from '../../../scripts/listening-socket.ts'
import { freePort } from '../../../scripts/postgres.ts'

/** Answers each connection with its own name, on the descriptor that it inherits. */
const server = (name: string) =>
  `require('net').createServer((socket) => socket.end('${name}')).listen({ fd: 3 }, () => console.log('up'))`

async function serve(name: string, fd: number) {
  const child = spawn(process.execPath, ['-e', server(name)], { stdio: ['ignore', 'pipe', 'inherit', fd] })
  onTestFinished(() => void child.kill('SIGKILL'))
  await once(child.stdout ?? child, 'data')
  return child
}

function ask(port: number): Promise<string> {
  return new Promise((resolve, reject) => {
    let said = ''
    connect(port, '127.0.0.1')
      .on('data', (chunk) => {
        said += chunk
      })
      .on('end', () => resolve(said))
      .on('error', reject)
  })
}

test('who connects while nobody serves waits for the next one', async () => {
  const port = await freePort()
  const socket = await openListeningSocket(port, '127.0.0.1')
  const first = await serve('first', socket.handle.fd)
  expect(await ask(port)).toBe('first')
  const gone = once(first, 'exit')
  first.kill('SIGKILL')
  await gone
  const waiting = [ask(port), ask(port)]
  const second = await serve('second', socket.handle.fd)
  expect(await Promise.all(waiting)).toEqual(['second', 'second'])
  const ended = once(second, 'exit')
  second.kill('SIGKILL')
  await ended
  socket.close()
  await expect(ask(port)).rejects.toThrow(/ECONNREFUSED/)
})

test('an address that is taken is refused in words', async () => {
  const port = await freePort()
  const socket = await openListeningSocket(port, '127.0.0.1')
  onTestFinished(() => socket.close())
  await expect(openListeningSocket(port, '127.0.0.1')).rejects.toThrow(/cannot be listened on: .*EADDRINUSE/)
})
