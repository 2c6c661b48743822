// How long a page of the dashboard takes to be there, in a real Chromium against a whole system with weeks of usage: from the start
// of the navigation to the frame, to the first click that is answered, and to the figures; with an empty cache and with a full one.
// Owns the run and its table. `npm run bench:page -- --requests 9000 --repeats 7`
import { loadavg } from 'node:os'
import { parseArgs } from 'node:util'
import type { BrowserContext } from 'playwright-core'
import { openContext, settled, WIDTHS } from '../../test/browser/support/browser.ts'
import { setStage } from '../../test/browser/support/stage.ts'

const { values } = parseArgs({
  options: { requests: { type: 'string', default: '9000' }, repeats: { type: 'string', default: '7' } },
})
const REPEATS = Number(values.repeats)
/** What the dashboard promises on the machine that it runs on. */
const TARGET_MS = 1_000
/** Rarely, so that looking costs the page nothing; the moments are noted by the page itself. */
const LOOK_EVERY_MS = 200
/** Each has the picker of the range, which is what is clicked. */
const PAGES = ['/', '/explore', '/requests', '/keys', '/audit']
const MOMENTS = ['frame', 'answers', 'figures'] as const

type Times = Record<(typeof MOMENTS)[number], number>

/** Runs in the page from its start: notes when things are there, and clicks as soon as there is something to click. */
const WATCH = `(() => {
  const times = {}
  const note = (name) => { times[name] ??= performance.now() }
  const look = () => {
    if (document.querySelector('.nav-link')) note('frame')
    const picker = document.querySelector('.main .range > button')
    if (picker && !times.answers) {
      if (picker.getAttribute('aria-expanded') === 'true') note('answers')
      else if (!times.clicked) { note('clicked'); picker.click() }
    }
    const isLoading = document.querySelector('.main .skeleton, .main .chart-skeleton, .main .value-skeleton')
    if (picker && !isLoading) note('figures')
    if (times.answers && times.figures) globalThis.pageTimes = times
    else requestAnimationFrame(look)
  }
  requestAnimationFrame(look)
})()`

async function open(context: BrowserContext, url: string): Promise<Times> {
  const page = await context.newPage()
  await page.addInitScript(WATCH)
  await page.goto(url)
  let times: unknown
  while (times === undefined) {
    await page.waitForTimeout(LOOK_EVERY_MS)
    // Through the debugger: the policy of the page forbids it to evaluate text.
    times = await page.evaluate('globalThis.pageTimes')
  }
  await settled(page)
  await page.close()
  return times as Times
}

const median = (sorted: readonly number[]): number => sorted[Math.floor(sorted.length / 2)] ?? 0
const text = (ms: number): string => ms.toFixed(0).padStart(5)

const stage = await setStage({ requests: Number(values.requests) })
let slow = 0
try {
  console.log(
    `${values.requests} requests of 45 days; median and longest of ${REPEATS}, in ms from the start of the navigation`,
  )
  console.log(`${'page'.padEnd(16)} ${MOMENTS.map((name) => name.padStart(14)).join('')}`)
  for (const path of PAGES) {
    const [cold, warm]: [Times[], Times[]] = [[], []]
    for (let repeat = 0; repeat < REPEATS; repeat++) {
      const context = await openContext(stage.browser, { theme: 'light', width: WIDTHS.wide, session: stage.session })
      const url = `${stage.system.baseUrl}/dashboard${path}`
      cold.push(await open(context, url))
      warm.push(await open(context, url))
      await context.close()
    }
    for (const [name, runs] of [
      ['cold', cold],
      ['warm', warm],
    ] as const) {
      const cells = MOMENTS.map((moment) => {
        const sorted = runs.map((times) => times[moment]).sort((a, b) => a - b)
        if (moment === 'answers' && median(sorted) > TARGET_MS) slow++
        return `${text(median(sorted))} (${text(sorted.at(-1) ?? 0)})`
      })
      console.log(`${`${path} ${name}`.padEnd(16)} ${cells.map((cell) => cell.padStart(14)).join('')}`)
    }
  }
  const load = loadavg().map((value) => value.toFixed(1))
  console.log(
    `${slow === 0 ? `all answer within ${TARGET_MS} ms` : `${slow} answer after ${TARGET_MS} ms`}; load ${load.join(' ')}`,
  )
  if (slow > 0) process.exitCode = 1
} finally {
  await stage.close()
}
