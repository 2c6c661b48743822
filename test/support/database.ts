// Starts the test database for the Worker suite. In a process of its own: inside the suite's Vite server the Postgres
// driver resolves to its workerd build, which has no sockets there.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import type { TestProject } from 'vitest/node'

declare module 'vitest' {
  interface ProvidedContext {
    databaseUrl: string
  }
}

export default async function setup(project: TestProject) {
  const script = new URL('./database-server.ts', import.meta.url).pathname
  const child = spawn(process.execPath, [script], { stdio: ['pipe', 'pipe', 'inherit'] })
  const ended = once(child, 'exit')
  const address = once(createInterface(child.stdout), 'line')
  const first = await Promise.race([address, ended.then(() => undefined)])
  if (first === undefined) throw new Error('the test database did not start')
  project.provide('databaseUrl', String(first[0]))
  return async () => {
    child.stdin.end()
    await ended
  }
}
