// The gateway's listening socket, kept open over its restarts. Owns opening it and holding it without ever accepting from it: what
// arrives while no gateway runs waits in the kernel's queue for the next one, instead of being refused. Who serves it inherits it
// (`workerd serve --socket-fd`).
//
// A socket that this process listened on itself would be accepted from here as well. So a process of its own opens it, hands it
// over and ends; what arrives here is a descriptor that nothing reads.
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { createServer, type Server } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'

/** Connections that may wait while the gateway is away; the system's own bound (net.core.somaxconn) may be lower. */
const BACKLOG = 4096
const OPEN_TIMEOUT_MS = 10_000

/** What a child process can inherit in its list of descriptors. */
export type Inheritable = { readonly fd: number }

export type ListeningSocket = {
  readonly handle: Inheritable
  /** New connections are refused from now on, as soon as no child has it either. */
  close(): void
}

type Handle = Inheritable & { close(): void }
/** Node's own modules hand listening sockets to other processes by this field, and it has no other name. */
const handleOf = (server: Server): Handle => (server as Server & { _handle: Handle })._handle

/** @throws Error in words where the address cannot be listened on. */
export async function openListeningSocket(port: number, host: string): Promise<ListeningSocket> {
  const opener = fork(import.meta.filename, [String(port), host], { execArgv: process.execArgv, stdio: 'ignore' })
  const exited = once(opener, 'exit')
  try {
    const told = new Promise<[unknown, unknown]>((resolve) => {
      opener.once('message', (message, handle) => resolve([message, handle]))
    })
    const gone = exited.then(() => ['the process that opens it ended', undefined] as const)
    const late = sleep(OPEN_TIMEOUT_MS, undefined, { ref: false }).then(() => ['it took too long', undefined] as const)
    const [message, received] = await Promise.race([told, gone, late])
    if (received === undefined) throw new Error(`port ${port} on ${host} cannot be listened on: ${String(message)}`)
    const handle = received as Handle
    return { handle, close: () => handle.close() }
  } finally {
    opener.kill('SIGKILL')
    await exited
  }
}

/** In the process of its own. */
function open(port: number, host: string): void {
  const tell = (message: string, handle?: Handle) => process.send?.(message, handle as never)
  const server = createServer()
  server.on('error', (error) => tell(error.message))
  server.listen({ port, host, backlog: BACKLOG, exclusive: true }, () => tell('open', handleOf(server)))
}

if (import.meta.main && process.send !== undefined) {
  open(Number(process.argv[2]), process.argv[3] ?? '')
}
