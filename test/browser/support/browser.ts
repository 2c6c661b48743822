// A real Chromium for the tests of the dashboard. Owns opening pages as a user has them (theme, size, session), and
// what is asked of every page: that axe finds nothing, that nothing is wider than the window, that the console stays quiet.
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { type Browser, type BrowserContext, chromium, type Page } from 'playwright-core'
import { chromiumPath } from './chromium.ts'

export const THEMES = ['light', 'dark'] as const
export type Theme = (typeof THEMES)[number]
export const WIDTHS = { wide: 1440, narrow: 375 } as const

/** No sandbox: containers forbid it, and only our own pages are opened. The others keep Chromium from calling home. */
const ARGS = ['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--no-first-run']

export async function openBrowser(): Promise<Browser> {
  const executablePath = chromiumPath()
  if (executablePath === undefined) throw new Error('no Chromium was found; CHROMIUM_PATH can name one')
  return chromium.launch({ executablePath, args: ARGS })
}

/** Session cookies of a context, to open further ones with. */
export type Session = Awaited<ReturnType<BrowserContext['storageState']>>

export function openContext(
  browser: Browser,
  options: { theme: Theme; width: number; height?: number; session?: Session },
): Promise<BrowserContext> {
  return browser.newContext({
    viewport: { width: options.width, height: options.height ?? 900 },
    colorScheme: options.theme,
    // Dates on screenshots must not depend on the machine.
    locale: 'en-GB',
    timezoneId: 'Europe/Berlin',
    ...(options.session === undefined ? {} : { storageState: options.session }),
  })
}

/** Short beside what a page takes to load; the test's own time limit ends the looking. */
const LOOK_EVERY_MS = 50

/** What went wrong in a page while it was open: exceptions, errors in the console, calls that failed. */
export function troubles(page: Page): string[] {
  const found: string[] = []
  page.on('pageerror', (error) => found.push(`exception: ${error.message}`))
  page.on('console', (message) => {
    const text = message.text()
    if (message.type() === 'error' && !text.startsWith('Failed to load resource')) found.push(`console: ${text}`)
  })
  page.on('response', (response) => {
    // 503 is "try again", and the page does; what it cannot get it shows as a failure.
    if (response.status() >= 400 && response.status() !== 503) found.push(`${response.status()} ${response.url()}`)
  })
  return found
}

/** Until what a page loads at once has come. The fleet's stream stays open, so that the network is never idle there. */
export async function settled(page: Page): Promise<void> {
  await page.waitForLoadState('load')
  await page.locator('.main h1').first().waitFor()
  const waiting = page.locator(
    '.main .skeleton, .main .chart-skeleton, .main .value-skeleton, .main [aria-busy="true"]',
  )
  while ((await waiting.count()) > 0) await page.waitForTimeout(LOOK_EVERY_MS)
}

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')

type AxeResult = { violations: { id: string; help: string; nodes: { target: unknown[]; failureSummary?: string }[] }[] }

/** One line for each thing that axe finds. */
export async function axeFindings(page: Page): Promise<string[]> {
  await page.evaluate(AXE)
  const { violations } = (await page.evaluate('axe.run(document, { resultTypes: ["violations"] })')) as AxeResult
  return violations.flatMap(({ id, help, nodes }) =>
    nodes.map(({ target, failureSummary }) => `${id} (${help}): ${target.join(' ')} ${failureSummary ?? ''}`),
  )
}

/** How many px the page is wider than its window. */
export const overflowPx = (page: Page): Promise<number> =>
  page.evaluate('document.documentElement.scrollWidth - document.documentElement.clientWidth')
