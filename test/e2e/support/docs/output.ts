// Whether a command printed what its page shows. Owns what may differ: numbers and what contains one (ids, times, amounts), widths of
// columns, what stands for `…`, and lines that a model wrote. Words have to be the same. Pure.

/** What npm and Node say about the machine that they run on, and nobody has in mind who reads a page. */
const NOISE = [/^npm (?:warn|notice)/, /^> \S+@\S+ [\w:]+$/, /^> node /, /ExperimentalWarning|--trace-warnings/]
/** What tells that something is at work, where there is no terminal to show it on; and how long it took, behind what is done. */
const AT_WORK = /^(?!✓).*\(\d+ s\)$/
const TOOK = / \(\d+\.\d s\)$/
const ESCAPES = new RegExp(`${String.fromCharCode(27)}\\[[0-9;?]*[A-Za-z]`, 'g')
/** A word with a digit in it, up to the punctuation behind it. */
const VALUE = '[\\w.:+-]*\\d(?:[\\w.:+-]*\\w)?'

/** As they are compared. */
export function linesOf(output: string): string[] {
  const lines = output
    .replace(ESCAPES, '')
    .split('\n')
    .map((line) => line.replace(/\s+/g, ' ').trim().replace(TOOK, ''))
  return lines.filter((line) => line !== '' && ![...NOISE, AT_WORK].some((noise) => noise.test(line)))
}

/**
 * @param expected as a page shows it; a line `…` stands for any lines, `…` within one for anything up to what follows.
 * @param freeLines lines of it, counted from 1, that may be anything but absent.
 * @param anywhere other lines may stand before and behind.
 */
export function isShown(
  expected: string,
  output: string,
  { freeLines = [], anywhere = false }: { freeLines?: readonly number[]; anywhere?: boolean } = {},
): boolean {
  const lines = expected
    .split('\n')
    .map((line, index) => (freeLines.includes(index + 1) ? FREE : line.replace(/\s+/g, ' ').trim()))
  const wanted = inOneOrder(lines.filter((line) => line !== '')).flatMap(stepsOf)
  const steps: Step[] = anywhere ? ['any', ...wanted, 'any'] : wanted
  // All places at once that the page can have got to: a pattern over the whole output would try them one after the other for ever.
  let places = reached(steps, [0])
  for (const line of inOneOrder(linesOf(output))) {
    const next = [...places].flatMap((place) => {
      const step = steps[place]
      if (step === undefined) return []
      if (step === 'any') return [place]
      return step === 'one' || step.test(line) ? [place + 1] : []
    })
    places = reached(steps, next)
  }
  return places.has(steps.length)
}

/** One line that fits, any one line, or any number of them. */
type Step = RegExp | 'one' | 'any'
const FREE = '…+'

function stepsOf(line: string): Step[] {
  if (line === '…') return ['any']
  return line === FREE ? ['one', 'any'] : [new RegExp(`^${patternOf(line)}$`)]
}

/** Those places, and those behind steps that need no line. */
function reached(steps: readonly Step[], from: readonly number[]): Set<number> {
  const places = new Set<number>()
  for (let place of from) {
    places.add(place)
    while (steps[place] === 'any') places.add(++place)
  }
  return places
}

/** Steps of a start (`✓ Gateway: …`) end in any order: lines of them in a row are sorted. */
function inOneOrder(lines: readonly string[]): string[] {
  const sorted: string[] = []
  let steps: string[] = []
  for (const line of [...lines, '']) {
    if (/^✓ [A-Z]/.test(line)) {
      steps.push(line)
      continue
    }
    sorted.push(...steps.sort(), line)
    steps = []
  }
  return sorted.slice(0, -1)
}

function patternOf(line: string): string {
  return line
    .split('…')
    .map((part) => {
      let pattern = ''
      let done = 0
      for (const found of part.matchAll(new RegExp(VALUE, 'g'))) {
        pattern += `${escaped(part.slice(done, found.index))}${VALUE}`
        done = found.index + found[0].length
      }
      return pattern + escaped(part.slice(done))
    })
    .join('.*?')
}

const escaped = (text: string): string => text.replace(/[.*+?^${}()|[\]\\/]/g, '\\$&')
