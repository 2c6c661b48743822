// `npm run docs:screenshots`: pictures of every page in both themes and both widths, into docs/screenshots. Owns the pictures'
// form and what is clicked for them; what stands on the pages is support/stage.ts. They are made by hand, looked at, and kept with
// the documents. `-- fleet playground` makes these alone.
import { mkdir, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Page } from 'playwright-core'
import { TINY_MODEL } from '../e2e/support/system.ts'
import { openContext, settled, THEMES, WIDTHS } from './support/browser.ts'
import { PAGES, type Shown } from './support/pages.ts'
import { setStage } from './support/stage.ts'

const OUT = join(import.meta.dirname, '..', '..', 'docs', 'screenshots')
const REQUESTS = 9_000
/** Of a window; what is below is cut. */
const HEIGHTS = { wide: 1_000, narrow: 812 } as const
/** A picture that is larger is not worth its place in a repository. */
const BYTES_MAX = 150_000
/** Of WebP: text stays sharp. */
const QUALITY = 0.82
/** Fonts and canvases are drawn a frame after the data is there. */
const DRAWN_MS = 400

/** Until the lines of the fleet have a few seconds in them. */
const BUSY_MS = 8_000
const WORK = 'Go on counting, and do not stop before a hundred: one, two, three, four, five, six, seven'
/** Tokens of each answer of the playground: enough to have a speed. */
const ANSWER_TOKENS = 64

/** What is done before the picture, and perhaps what is to end after it. */
type Act = (page: Page) => Promise<(() => Promise<void>) | undefined>
type Scene = Shown & { act?: Act }

/** Each page as one finds it, or where it shows more by then. */
const ACTS: Readonly<Record<string, Omit<Scene, 'name'>>> = {
  explore: { path: '/explore?by=key&and=model&top=5' },
  // What they are asked for the pictures of the fleet costs less.
  requests: { path: '/requests?min_cost=0.0001' },
  fleet: { path: '/fleet', act: keepBusy },
  playground: { path: `/playground?model=${TINY_MODEL}&with=assistant&max_tokens=${ANSWER_TOKENS}`, act: compare },
}
const SCENES: readonly Scene[] = [
  ...PAGES.map((page): Scene => ({ ...page, ...ACTS[page.name] })),
  { name: 'request', path: '/requests?model=assistant', act: openFallenOver },
  { name: 'models', path: '/providers?tab=models' },
  { name: 'configuration', path: '/providers?tab=config' },
]
const only = process.argv.slice(2)
const isWanted = ({ name }: { name: string }) => only.length === 0 || only.includes(name)

const stage = await setStage({ requests: REQUESTS })
try {
  if (only.length === 0) await rm(OUT, { recursive: true, force: true })
  await mkdir(OUT, { recursive: true })
  for (const theme of THEMES)
    for (const width of ['wide', 'narrow'] as const) {
      const size = { theme, width: WIDTHS[width], height: HEIGHTS[width] }
      const context = await openContext(stage.browser, { ...size, session: stage.session })
      const page = await context.newPage()
      for (const { name, path, act } of SCENES.filter(isWanted)) {
        await page.goto(`${stage.system.baseUrl}/dashboard${path}`)
        await settled(page)
        const end = await act?.(page)
        await keep(page, `${name}-${theme}-${WIDTHS[width]}`)
        await end?.()
      }
      await context.close()
      if (!isWanted({ name: 'sign-in' })) continue
      const stranger = await openContext(stage.browser, size)
      const door = await stranger.newPage()
      await door.goto(`${stage.system.baseUrl}/dashboard/sign-in`)
      await door.getByRole('heading', { name: 'Sign in' }).waitFor()
      await keep(door, `sign-in-${theme}-${WIDTHS[width]}`)
      await stranger.close()
    }
} finally {
  await stage.close()
}

/** Own machines have something to do while they are looked at. */
async function keepBusy(page: Page) {
  const over = new AbortController()
  const ask = async () => {
    const body = { model: TINY_MODEL, messages: [{ role: 'user' as const, content: WORK }], max_tokens: 300 }
    while (!over.signal.aborted)
      await stage.system.client.chat.completions
        .create(body, { signal: over.signal })
        // What is refused here is nobody's loss.
        .catch(() => page.waitForTimeout(DRAWN_MS))
  }
  const work = Promise.all(Array.from({ length: 4 }, ask))
  await page.waitForTimeout(BUSY_MS)
  return async () => {
    over.abort()
    await work
  }
}

/** Two models, asked the same. */
async function compare(page: Page) {
  await page.getByRole('button', { name: 'Start', exact: true }).click()
  const prompt = page.locator('#prompt')
  await prompt.fill('Say in one sentence what a penstock is.')
  await page.getByRole('button', { name: 'Send to both' }).click()
  await page.getByText('Tokens/s').nth(1).waitFor()
  // The cost is that of the row, which is written a moment later.
  while ((await page.getByText('being recorded…').count()) > 0) await page.waitForTimeout(DRAWN_MS)
  return undefined
}

/** A request that a second target answered: its waterfall has two bars. */
async function openFallenOver(page: Page) {
  await page.getByRole('row').filter({ hasText: 'after 2 attempts' }).first().getByRole('link').first().click()
  await page.getByRole('dialog').waitFor()
  await settled(page)
  return undefined
}

/** Chromium itself packs the picture: it is the one encoder of WebP that is here anyway. */
async function keep(page: Page, name: string): Promise<void> {
  await page.waitForTimeout(DRAWN_MS)
  const png = (await page.screenshot()).toString('base64')
  const blank = await page.context().newPage()
  const webp = await blank.evaluate(`(async () => {
    const image = new Image()
    image.src = 'data:image/png;base64,${png}'
    await image.decode()
    const canvas = document.createElement('canvas')
    canvas.width = image.width
    canvas.height = image.height
    canvas.getContext('2d').drawImage(image, 0, 0)
    return canvas.toDataURL('image/webp', ${QUALITY}).split(',')[1]
  })()`)
  await blank.close()
  const path = join(OUT, `${name}.webp`)
  await writeFile(path, Buffer.from(String(webp), 'base64'))
  const { size } = await stat(path)
  console.log(`${name}.webp ${Math.round(size / 1_000)} kB`)
  if (size > BYTES_MAX) throw new Error(`${name}.webp is larger than ${BYTES_MAX} bytes`)
}
