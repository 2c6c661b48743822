// A user without a mouse. Owns walking by Tab to what has a name, and asking whether the focus can be seen.
import type { Page } from 'playwright-core'

/** More stops than any page has before what a test looks for. */
const STOPS_MAX = 150

const NAME = `(() => {
  const here = document.activeElement
  if (here === null || here === document.body) return null
  const labels = 'labels' in here && here.labels ? [...here.labels].map((label) => label.textContent).join(' ') : ''
  const text = here.getAttribute('aria-label') || labels || here.textContent || here.getAttribute('title') || here.tagName
  return text.replace(/\\s+/g, ' ').trim().slice(0, 80)
})()`

/** What has the focus, by its label or text; undefined: nothing has. */
export async function focusName(page: Page): Promise<string | undefined> {
  return ((await page.evaluate(NAME)) as string | null) ?? undefined
}

/** Whether there is an outline around it, or around the label, row or box that stands for it, inside the window. */
const SHOWN = `(() => {
  const here = document.activeElement
  const shown = [here, here.closest('label'), here.parentElement].some((one) => {
    if (one === null) return false
    const { outlineStyle, outlineWidth } = getComputedStyle(one)
    return outlineStyle !== 'none' && Number.parseFloat(outlineWidth) >= 1
  })
  const { bottom, top, width, height } = here.getBoundingClientRect()
  return shown && width > 0 && height > 0 && bottom > 0 && top < innerHeight
})()`

/** Presses Tab. Returns where that leads, and whether one sees it; undefined: out of the page. */
export async function step(page: Page): Promise<{ name: string; isShown: boolean } | undefined> {
  await page.keyboard.press('Tab')
  const [name, isShown] = (await page.evaluate(`[${NAME}, ${SHOWN}]`)) as [string | null, boolean]
  return name === null ? undefined : { name, isShown }
}

/**
 * Presses Tab until the focus is where it shall be.
 * @param name of what is looked for, or its beginning
 * @param options.within a selector that it stands in
 * @throws Error with all stops, where it is not to be reached
 */
export async function tabTo(
  page: Page,
  name: string,
  { within, backwards = false }: { within?: string; backwards?: boolean } = {},
): Promise<void> {
  const stops: (string | undefined)[] = []
  for (let turn = 0; turn < STOPS_MAX; turn++) {
    await page.keyboard.press(backwards ? 'Shift+Tab' : 'Tab')
    const here = await focusName(page)
    stops.push(here)
    if (here?.startsWith(name) !== true) continue
    if (within === undefined) return
    if (await page.evaluate(`document.activeElement.closest(${JSON.stringify(within)}) !== null`)) return
  }
  throw new Error(`${name} cannot be reached by Tab: ${stops.join(' | ')}`)
}
