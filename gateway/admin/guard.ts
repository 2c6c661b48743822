// The door of the admin API. Owns who passes; every route behind it is an administrator's, none is open by default.
import { createMiddleware } from 'hono/factory'
import { type AdminEnv, Refusal } from './context.ts'

const TOKEN_CHARS_MIN = 32

/** Passes `Authorization: Bearer ADMIN_TOKEN` and nothing else. A token too short to be a secret opens nothing. */
export const guard = createMiddleware<AdminEnv>(async (c, next) => {
  const expected = c.env.ADMIN_TOKEN
  if (typeof expected !== 'string' || expected.length < TOKEN_CHARS_MIN) {
    const message = `The admin API is closed: ADMIN_TOKEN has fewer than ${TOKEN_CHARS_MIN} characters.`
    throw new Refusal({ code: 'unavailable', message })
  }
  const presented = /^bearer +(\S+) *$/i.exec(c.req.header('authorization') ?? '')?.[1] ?? ''
  if (!(await sameText(presented, expected))) {
    const message = 'The admin API needs "Authorization: Bearer <ADMIN_TOKEN>".'
    throw new Refusal({ code: 'invalid_api_key', message })
  }
  await next()
})

/** Compares digests, in a time that depends on neither text: how much of a guess is right does not show. */
async function sameText(left: string, right: string): Promise<boolean> {
  const digest = async (text: string) =>
    new Uint8Array(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(text)))
  const [a, b] = [await digest(left), await digest(right)]
  return a.reduce((difference, byte, index) => difference | (byte ^ (b[index] ?? 0)), 0) === 0
}
