// `npm run docs:screenshots`: pictures of every page in both themes and both widths, into docs/screenshots. Owns the pictures'
// form; what stands on the pages is support/stage.ts. They are made by hand, looked at, and kept with the documents.
import { mkdir, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Page } from 'playwright-core'
import { openContext, settled, THEMES, WIDTHS } from './support/browser.ts'
import { PAGES } from './support/pages.ts'
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

const stage = await setStage({ requests: REQUESTS })
try {
  await rm(OUT, { recursive: true, force: true })
  await mkdir(OUT, { recursive: true })
  for (const theme of THEMES)
    for (const width of ['wide', 'narrow'] as const) {
      const size = { theme, width: WIDTHS[width], height: HEIGHTS[width] }
      const context = await openContext(stage.browser, { ...size, session: stage.session })
      const page = await context.newPage()
      for (const { name, path } of PAGES) {
        await page.goto(`${stage.system.baseUrl}/dashboard${path}`)
        await settled(page)
        await keep(page, `${name}-${theme}-${WIDTHS[width]}`)
      }
      await context.close()
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
