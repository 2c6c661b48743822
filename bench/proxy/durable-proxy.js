// A proxy that promises of a call what the gateway promises, and does nothing else: a row is durable before the call is
// passed on, and another one before its answer has ended. One object, one call to it for each row. What the platform takes for
// that is the limit of any gateway on it that holds money; bench/gateway/rival.ts serves it.
import { DurableObject } from 'cloudflare:workers'

/** Rows stay few, so that the table's size is no part of what is measured. */
const ROWS = 1000

export class Book extends DurableObject {
  #written = 0

  constructor(ctx, env) {
    super(ctx, env)
    ctx.storage.sql.exec('CREATE TABLE IF NOT EXISTS book (id INTEGER PRIMARY KEY, value TEXT NOT NULL)')
  }

  /** Its answer waits until the row is durable. */
  write(value) {
    this.ctx.storage.sql.exec('INSERT OR REPLACE INTO book (id, value) VALUES (?, ?)', this.#written++ % ROWS, value)
  }
}

export default {
  async fetch(request, env) {
    const { pathname } = new URL(request.url)
    if (pathname === '/health') return new Response('ok')
    const book = env.BOOK.getByName('book')
    await book.write('held')
    const answer = await fetch(env.UPSTREAM + pathname.slice('/v1'.length), {
      method: request.method,
      headers: { 'content-type': 'application/json', authorization: request.headers.get('authorization') ?? '' },
      body: request.body,
    })
    const settle = new TransformStream({ flush: () => book.write('settled') })
    return new Response(answer.body.pipeThrough(settle), { status: answer.status, headers: answer.headers })
  },
}
