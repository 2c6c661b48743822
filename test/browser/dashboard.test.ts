// The dashboard in a real Chromium against a real gateway, with weeks of usage: every page in both themes and both widths, and
// the way of a new user from signing in to a budget that is used up.
import OpenAI from 'openai'
import type { Page } from 'playwright-core'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { axeFindings, openContext, overflowPx, settled, THEMES, troubles, WIDTHS } from './support/browser.ts'
import { focusName, step, tabTo } from './support/keyboard.ts'
import { PAGES } from './support/pages.ts'
import { type Stage, setStage } from './support/stage.ts'

let stage: Stage

beforeAll(async () => {
  stage = await setStage({ requests: 1_500 })
})
afterAll(async () => {
  await stage?.close()
})

const org = () => `/organisations/${stage.orgId}`
const address = (path: string) => `${stage.system.baseUrl}/dashboard${path}`

async function withPage<T>(
  options: { theme?: 'light' | 'dark'; width?: number; isSignedOut?: boolean },
  use: (page: Page) => Promise<T>,
): Promise<T> {
  const context = await openContext(stage.browser, {
    theme: options.theme ?? 'light',
    width: options.width ?? WIDTHS.wide,
    ...(options.isSignedOut === true ? {} : { session: stage.session }),
  })
  try {
    return await use(await context.newPage())
  } finally {
    await context.close()
  }
}

describe('every page', () => {
  test('of the navigation is looked at', async () => {
    await withPage({}, async (page) => {
      await page.goto(address('/'))
      await settled(page)
      const links = await Promise.all((await page.locator('.nav-link').all()).map((one) => one.getAttribute('href')))
      expect(links.map((path) => path?.slice('/dashboard'.length))).toEqual(PAGES.map(({ path }) => path))
    })
  })

  for (const theme of THEMES)
    for (const { name, path } of PAGES)
      test(`${name}, ${theme}: loads without trouble, axe finds nothing, and nothing is wider than the window`, async () => {
        for (const width of Object.values(WIDTHS))
          await withPage({ theme, width }, async (page) => {
            const found = troubles(page)
            await page.goto(address(path))
            await settled(page)
            expect(found).toEqual([])
            expect(await page.locator('.failure').allTextContents()).toEqual([])
            expect(await axeFindings(page)).toEqual([])
            expect(await overflowPx(page)).toBe(0)
          })
      })

  test('of signing in holds the same in both themes', async () => {
    for (const theme of THEMES)
      await withPage({ theme, width: WIDTHS.narrow, isSignedOut: true }, async (page) => {
        await page.goto(address('/sign-in'))
        await page.getByRole('heading', { name: 'Sign in' }).waitFor()
        expect(await axeFindings(page)).toEqual([])
        expect(await overflowPx(page)).toBe(0)
      })
  })
})

describe('figures', () => {
  test('of Explore add up: the sum below the table is the headline and the API says the same', async () => {
    await withPage({}, async (page) => {
      await page.goto(address('/explore?by=key&and=model&range=30d&tz=UTC&top=5'))
      await settled(page)
      const headline = await page.locator('.explore-figure').textContent()
      const foot = await page.locator('tfoot td').allTextContents()
      expect(foot).toContain(headline)
      expect(await page.getByRole('row', { name: /^Other/ }).count()).toBeGreaterThan(0)
      const download = page.waitForEvent('download')
      await page.getByRole('button', { name: 'CSV of Spend by key and model' }).click()
      const csv = await readAll(await (await download).createReadStream())
      const lines = csv
        .trim()
        .split('\r\n')
        .map((line) => line.split(','))
      const column = lines[0]?.indexOf('Spend') ?? -1
      const amounts = lines.slice(1).map((cells) => nanoUsd(cells[column] ?? ''))
      const sum = amounts.pop()
      expect(amounts.reduce((all, one) => all + one, 0n)).toBe(sum)
    })
  })

  test('lead to the rows behind them, with the range and the zone', async () => {
    await withPage({}, async (page) => {
      await page.goto(address('/explore?by=model&range=30d&tz=UTC'))
      await settled(page)
      const row = page.getByRole('row', { name: /^assistant/ })
      await row.getByRole('link').click()
      await page.getByRole('heading', { name: 'Requests', level: 1 }).waitFor()
      const { searchParams } = new URL(page.url())
      expect(Object.fromEntries(searchParams)).toMatchObject({ model: 'assistant', range: '30d', tz: 'UTC' })
    })
  })
})

describe('signing in', () => {
  test('takes the code out of the address, and a link works once', async () => {
    const link = await stage.link()
    await withPage({ isSignedOut: true }, async (page) => {
      await page.goto(link)
      await page.locator('.nav').waitFor()
      expect(page.url()).toBe(address('/'))
      await page.goBack().catch(() => undefined)
      expect(page.url()).not.toContain('code=')
    })
    await withPage({ isSignedOut: true }, async (page) => {
      await page.goto(link)
      await page.getByText('This link does not work any more.').waitFor()
    })
  })

  test('comes back to the page that was asked for, and signing out ends it', async () => {
    await withPage({ isSignedOut: true }, async (page) => {
      await page.goto(address('/explore?by=key'))
      await page.getByRole('heading', { name: 'Sign in' }).waitFor()
      const code = new URL(await stage.link()).hash
      await page.evaluate(`window.location.hash = ${JSON.stringify(code)}`)
      await page.getByRole('heading', { name: 'Explore' }).waitFor()
      expect(page.url()).toBe(address('/explore?by=key'))
      await page.getByRole('button', { name: 'Sign out' }).click()
      await page.getByRole('heading', { name: 'Sign in' }).waitFor()
      await page.goto(address('/keys'))
      await page.getByRole('heading', { name: 'Sign in' }).waitFor()
    })
  })
})

describe('a new user', () => {
  test('makes a key, calls with it, sees row, cost and budget move, and is told why when it is used up', async () => {
    await withPage({}, async (page) => {
      await page.goto(address('/keys'))
      await page.getByRole('button', { name: 'Create key' }).first().click()
      const form = page.getByRole('dialog', { name: 'Create a key' })
      await form.getByLabel('Name').fill('first steps')
      await form.getByRole('button', { name: 'Create key' }).click()
      const made = page.getByRole('dialog', { name: 'first steps is ready' })
      const key = (await made.getByRole('region', { name: 'The key' }).textContent())?.trim() ?? ''
      expect(key).toMatch(/^psk_/)
      expect(await axeFindings(page)).toEqual([])

      await made.getByRole('link', { name: 'Set a budget' }).click()
      await page.getByRole('heading', { name: 'Limits & budgets', level: 1 }).waitFor()
      const keyId = new URL(page.url()).searchParams.get('key')
      await page.getByRole('button', { name: 'Set limits' }).click()
      const limits = page.getByRole('dialog', { name: 'Limits' })
      // Enough for one request at its worst case, not for two.
      await limits.getByLabel('At most').fill('0.000008')
      expect(await axeFindings(page)).toEqual([])
      await limits.getByRole('button', { name: 'Save' }).click()
      await page.getByText('Limits are in force').waitFor()

      const client = new OpenAI({ baseURL: `${stage.system.baseUrl}/v1`, apiKey: key, maxRetries: 0 })
      const ask = () =>
        client.chat.completions.create({
          model: stage.system.model,
          messages: [{ role: 'user', content: 'Say hello.' }],
          max_tokens: 16,
        })
      const { response } = await ask().withResponse()
      const { costNanoUsd } = await stage.system.usage(
        (response.headers.get('x-request-id') ?? '').replace(/^req_/, ''),
      )

      await page.goto(address(`/requests?key=${keyId}`))
      const row = page.getByRole('row').filter({ hasText: stage.system.model })
      await row.waitFor()
      const exact = `$0.${costNanoUsd.toString().padStart(9, '0').replace(/0+$/, '')}`
      await row.getByTitle(exact, { exact: true }).waitFor()
      await row.getByRole('link').first().click()
      await page
        .getByText(response.headers.get('x-request-id')?.replace(/^req_/, '') ?? '')
        .first()
        .waitFor()
      await settled(page)
      expect(await axeFindings(page)).toEqual([])

      const refusal = await ask().then(
        () => undefined,
        (error: unknown) => error,
      )
      expect(refusal).toBeInstanceOf(OpenAI.RateLimitError)
      expect((refusal as InstanceType<typeof OpenAI.RateLimitError>).code).toBe('insufficient_quota')

      await page.goto(address(`/limits?key=${keyId}`))
      const meter = page.getByRole('meter', { name: 'first steps: Budget per month' })
      const settledOf = async () => {
        await page.reload()
        await settled(page)
        return await meter.getAttribute('aria-valuetext')
      }
      await expect.poll(settledOf, { timeout: 15_000 }).toMatch(/^\$0\.00000[1-9]\d* of \$0\.000008$/)
      // The event is written with the account's next rows.
      await page.getByRole('row', { name: /first steps.*refused|refused.*first steps/i }).waitFor()
    })
  })
})

describe('by keyboard alone', () => {
  /** Through the navigation and what stands at the head of a page. */
  const STOPS = 40

  test('every page can be walked through, and what has the focus shows it', async () => {
    for (const { name, path } of PAGES)
      await withPage({}, async (page) => {
        await page.goto(address(path))
        await settled(page)
        const stops: string[] = []
        for (let turn = 0; turn < STOPS; turn++) {
          const stop = await step(page)
          if (stop === undefined) break
          stops.push(stop.name)
          expect([name, stop]).toEqual([name, { ...stop, isShown: true }])
        }
        expect(stops[0]).toBe('Skip to the page')
        expect(new Set(stops).size).toBeGreaterThan(15)
      })
  })

  test('a dialog is opened, filled in and sent, or left with Escape; the focus comes back', async () => {
    await withPage({}, async (page) => {
      await page.goto(address('/limits'))
      await settled(page)
      await tabTo(page, 'Set limits')
      await page.keyboard.press('Enter')
      const form = page.getByRole('dialog', { name: 'Limits' })
      await form.getByLabel('At most').first().waitFor()
      await page.keyboard.press('Escape')
      await form.waitFor({ state: 'detached' })
      expect(await focusName(page)).toBe('Set limits')

      await page.keyboard.press('Enter')
      await form.getByLabel('At most').first().waitFor()
      await tabTo(page, 'Add a limit')
      await page.keyboard.press('Enter')
      await tabTo(page, 'At most', { backwards: true })
      await page.keyboard.type('1234.5')
      await page.keyboard.press('Enter')
      await page.getByText('Limits are in force').waitFor()
      await form.waitFor({ state: 'detached' })
      expect(await focusName(page)).toBe('Set limits')
      const { body } = await stage.system.admin<{ limits: { max_usd?: string }[] }>('GET', `${org()}/limits`)
      expect(body.limits.map(({ max_usd: max }) => max)).toContain('1234.5')
    })
  })

  test('a table is sorted by its heads, walked by arrows, and a row opened with Enter', async () => {
    await withPage({}, async (page) => {
      await page.goto(address('/explore?by=key&range=30d'))
      await settled(page)
      await tabTo(page, 'Requests', { within: 'thead' })
      const head = page.locator('th', { hasText: 'Requests' })
      await page.keyboard.press('Enter')
      expect(await head.getAttribute('aria-sort')).toBe('descending')
      await page.keyboard.press('Space')
      expect(await head.getAttribute('aria-sort')).toBe('ascending')
      expect(await focusName(page)).toContain('Requests')

      await page.goto(address('/requests?range=30d&status_class=ok'))
      await settled(page)
      await page.locator('tbody tr').first().focus()
      await page.keyboard.press('ArrowDown')
      expect(await page.evaluate(`document.activeElement === document.querySelectorAll('tbody tr')[1]`)).toBe(true)
      await page.keyboard.press('Enter')
      await page.getByRole('dialog').waitFor()
      await page.keyboard.press('Escape')
      await page.getByRole('dialog').waitFor({ state: 'detached' })
      const { pathname, searchParams } = new URL(page.url())
      expect([pathname, searchParams.get('status_class')]).toEqual(['/dashboard/requests', 'ok'])
    })
  })

  test('tabs are changed by arrows, and stand in the address', async () => {
    await withPage({}, async (page) => {
      await page.goto(address('/billing'))
      await settled(page)
      await tabTo(page, 'Statement', { within: '[role=tablist]' })
      await page.keyboard.press('ArrowRight')
      expect(await focusName(page)).toBe('Ledger')
      expect(new URL(page.url()).searchParams.get('tab')).toBe('ledger')
      await page.keyboard.press('End')
      expect(await page.getByRole('tab', { name: 'Price book' }).getAttribute('aria-selected')).toBe('true')
      await page.keyboard.press('Home')
      expect(await focusName(page)).toBe('Statement')
    })
  })

  test('the range is picked; its box closes with Escape and gives the focus back', async () => {
    await withPage({}, async (page) => {
      await page.goto(address('/explore'))
      await settled(page)
      await tabTo(page, 'Last 7 days')
      await page.keyboard.press('Enter')
      const box = page.getByRole('dialog', { name: 'Range of time' })
      await box.waitFor()
      await page.keyboard.press('Escape')
      await box.waitFor({ state: 'detached' })
      expect(await focusName(page)).toContain('Last 7 days')
      await page.keyboard.press('Enter')
      await tabTo(page, 'Last 30 days')
      await page.keyboard.press('Enter')
      await box.waitFor({ state: 'detached' })
      expect(new URL(page.url()).searchParams.get('range')).toBe('30d')
      expect(await focusName(page)).toContain('Last 30 days')
    })
  })

  test('the drawer of a small screen opens, closes with Escape, and leads to a page', async () => {
    await withPage({ width: WIDTHS.narrow }, async (page) => {
      await page.goto(address('/'))
      await settled(page)
      await tabTo(page, 'Navigation')
      await page.keyboard.press('Enter')
      await page.getByRole('link', { name: 'Explore', exact: true }).first().waitFor()
      await page.keyboard.press('Escape')
      expect(await focusName(page)).toBe('Navigation')
      await page.keyboard.press('Enter')
      await tabTo(page, 'Explore', { within: '.nav' })
      await page.keyboard.press('Enter')
      await page.getByRole('heading', { name: 'Explore', level: 1 }).waitFor()
      expect(await page.evaluate('document.activeElement.id')).toBe('main')
    })
  })
})

describe('two people with the same limits', () => {
  test('the second is shown what the first changed, and nothing is lost unseen', async () => {
    const path = `${org()}/projects/*/limits`
    const put = (max: number) =>
      stage.system.admin('PUT', path, { limits: [{ meter: 'requests', window: 'hour', max }] })
    const stored = async () => (await stage.system.admin<{ limits: { max: number }[] }>('GET', path)).body.limits
    await put(100)
    await withPage({}, async (page) => {
      await page.goto(address('/limits'))
      await settled(page)
      await page.getByRole('button', { name: 'Set limits' }).click()
      const form = page.getByRole('dialog', { name: 'Limits' })
      await form.getByLabel('Of', { exact: true }).selectOption('project')
      await form.getByLabel('Which').selectOption('*')
      await form.getByLabel('At most').fill('50')
      await put(200)
      await form.getByRole('button', { name: 'Save' }).click()
      const told = form.getByRole('alert')
      await told.waitFor()
      expect(await told.locator('li').allTextContents()).toEqual([
        'Removed: Requests per hour: 100',
        'Added: Requests per hour: 200',
      ])
      expect(await axeFindings(page)).toEqual([])
      expect(await stored()).toMatchObject([{ max: 200 }])
      await told.getByRole('button', { name: 'Start again from theirs' }).click()
      expect(await form.getByLabel('At most').inputValue()).toBe('200')
      await form.getByLabel('At most').fill('60')
      await form.getByRole('button', { name: 'Save' }).click()
      await page.getByText('Limits are in force').waitFor()
      expect(await stored()).toMatchObject([{ max: 60 }])
    })
  })
})

describe('whoever is bound to one project', () => {
  test('sees its figures and its pages alone', async () => {
    const projects = await stage.system.admin<{ data: { id: string; slug: string }[] }>('GET', `${org()}/projects`)
    const project = projects.body.data.find(({ slug }) => slug === 'support')
    const user = await stage.system.admin<{ id: string }>('POST', `${org()}/users`, {
      email: 'dev@example.com',
      role: 'developer',
      projects: [project?.id],
    })
    const link = await stage.system.admin<{ url: string }>('POST', '/sign-in-links', {
      org_id: stage.orgId,
      user_id: user.body.id,
    })
    await withPage({ isSignedOut: true }, async (page) => {
      await page.goto(link.body.url)
      // A link that somebody sent says whom it signs in, before it does.
      await page.getByText('signs you in as dev@example.com').waitFor()
      await page.getByRole('button', { name: 'Sign in' }).click()
      const found = troubles(page)
      await settled(page)
      await page.getByRole('link', { name: 'support-bot' }).waitFor()
      expect(await page.getByRole('link', { name: 'code-review' }).count()).toBe(0)
      const pages = (await page.locator('.nav-link').allTextContents()).map((text) => text.trim())
      expect(pages).toEqual(['Overview', 'Explore', 'Requests', 'Keys', 'Playground'])
      for (const name of pages) {
        await page.locator('.nav-link', { hasText: name }).click()
        await page.getByRole('heading', { name, level: 1 }).waitFor()
        await settled(page)
        expect(await page.locator('.failure').allTextContents()).toEqual([])
      }
      await page.goto(address('/providers'))
      await page.getByText('is not for your role').waitFor()
      expect(found).toEqual([])
    })
  })
})

describe('the first load', () => {
  /** Page, entry, styles, and what the overview needs beside them, charts included. */
  const BYTES_MAX = 90 * 1_024

  test('of the overview takes at most 90 KiB on the wire, and asks no other host', async () => {
    await withPage({}, async (page) => {
      const sizes: Promise<number>[] = []
      const others: string[] = []
      page.on('requestfinished', (request) => {
        const { pathname, origin } = new URL(request.url())
        if (origin !== stage.system.baseUrl && !request.url().startsWith('data:')) others.push(request.url())
        if (pathname.startsWith('/dashboard/'))
          sizes.push(request.sizes().then(({ responseBodySize }) => responseBodySize))
      })
      await page.goto(address('/'))
      await settled(page)
      const bytes = (await Promise.all(sizes)).reduce((sum, size) => sum + size, 0)
      expect(bytes).toBeGreaterThan(10_000)
      expect(bytes).toBeLessThanOrEqual(BYTES_MAX)
      expect(others).toEqual([])
    })
  })
})

async function readAll(stream: AsyncIterable<Uint8Array | string>): Promise<string> {
  let text = ''
  for await (const chunk of stream) text += typeof chunk === 'string' ? chunk : new TextDecoder().decode(chunk)
  return text
}

function nanoUsd(text: string): bigint {
  const [whole = '0', fraction = ''] = text.split('.')
  return BigInt(whole) * 1_000_000_000n + BigInt(fraction.padEnd(9, '0'))
}
