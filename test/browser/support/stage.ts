// A running system with weeks of usage behind it, and a browser that is signed in. Owns what stands on the stage: history, a
// provider, budgets, credit, so that every page has something to show.
import type { Browser } from 'playwright-core'
import { System, TINY_MODEL } from '../../e2e/support/system.ts'
import { openBrowser, openContext, type Session } from './browser.ts'
import { plantHistory } from './history.ts'

/** Long enough for a whole month and the one before it to be compared. */
const DAYS = 45

export type Stage = {
  system: System
  browser: Browser
  orgId: string
  /** Of the operator. */
  session: Session
  /** A link that signs in once. */
  link: () => Promise<string>
  close: () => Promise<void>
}

/** @param requests in the history, about */
export async function setStage({ requests }: { requests: number }): Promise<Stage> {
  const system = await System.start({ model: TINY_MODEL })
  const admin = async <T>(method: string, path: string, body?: unknown): Promise<T> => {
    const answer = await system.admin<T>(method, path, body)
    if (answer.status >= 300) throw new Error(`${method} ${path}: ${answer.status} ${JSON.stringify(answer.body)}`)
    return answer.body
  }
  const { data } = await admin<{ data: { id: string }[] }>('GET', '/organisations')
  const orgId = data[0]?.id
  if (orgId === undefined) throw new Error('the system has no organisation')
  const org = `/organisations/${orgId}`
  const { keys } = await plantHistory({
    databaseUrl: system.databaseUrl,
    admin,
    orgId,
    nowMs: Date.now(),
    days: DAYS,
    requests,
  })
  await admin('PUT', '/providers/example', {
    kind: 'openai_compatible',
    base_url: 'https://models.example.com/v1',
    secret: 'sk-not-a-real-one',
  })
  await admin('PUT', '/models/assistant', {
    targets: [
      { provider: 'fleet', model: TINY_MODEL, context_tokens: 512 },
      { provider: 'example', model: 'large', context_tokens: 128_000 },
    ],
  })
  await admin('PUT', `${org}/limits`, {
    limits: [
      { meter: 'money', window: 'month', max_usd: '25', time_zone: 'Europe/Berlin' },
      { meter: 'concurrency', max: 64 },
    ],
  })
  for (const [index, { id }] of keys.slice(0, 3).entries())
    await admin('PUT', `${org}/keys/${id}/limits`, {
      limits: [
        { meter: 'money', window: 'month', max_usd: ['6', '5', '4'][index] },
        { meter: 'requests', window: 'minute', max: 120 },
      ],
    })
  await admin('POST', `${org}/credit/grants`, {
    id: crypto.randomUUID(),
    kind: 'payment',
    amount_usd: '100',
    note: 'Invoice 2026-11',
  })
  // A few real ones on top, so that own machines have something to show too.
  for (const text of ['Hello', 'What is a penstock?', 'One more'])
    await system.client.chat.completions.create({
      model: TINY_MODEL,
      messages: [{ role: 'user', content: text }],
      max_tokens: 24,
    })
  const link = async () => (await admin<{ url: string }>('POST', '/sign-in-links', {})).url
  const browser = await openBrowser()
  const context = await openContext(browser, { theme: 'light', width: 1_440 })
  const page = await context.newPage()
  await page.goto(await link())
  await page.locator('.nav').waitFor()
  const session = await context.storageState()
  await context.close()
  const close = async () => {
    await browser.close()
    await system.discard()
  }
  return { system, browser, orgId, session, link, close }
}
