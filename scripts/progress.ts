// What the user sees while things take time. Owns the lines on standard error: one live status line on a terminal, plain
// lines elsewhere. Knows nothing of what the steps do.

export type Step = {
  /** Replaces what is shown behind the step's title, e.g. `43% of 98 MB`. */
  update(detail: string): void
  /** Ends the step well; `detail` is shown behind its title. */
  done(detail?: string): void
  /** Ends the step badly; the error itself is the caller's to report. */
  failed(): void
}

export type Progress = {
  step(title: string): Step
  /** A line of its own, above the live line. */
  note(text: string): void
  /** Removes the live line, ends the ticking. The object can be used again afterwards. */
  pause(): void
}

export type ProgressOutput = { write(text: string): void; isTTY: boolean; columns: number }

type Active = { title: string; detail: string; startedMs: number; shownMs: number }

const FRAMES = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏']
const FRAME_MS = 100
/** A step shorter than this is not announced without a terminal, only its end is told. */
const ANNOUNCE_AFTER_MS = 1_000
/** Without a terminal a running step tells its state this often. */
const REPEAT_MS = 10_000
const CLEAR_LINE = '\r\x1b[2K'

/** @param output default: standard error. @param nowMs a monotonic clock. */
export function createProgress(
  output: ProgressOutput = standardError(),
  nowMs: () => number = () => performance.now(),
): Progress {
  const active = new Set<Active>()
  let timer: NodeJS.Timeout | undefined
  let frame = 0

  const say = (text: string) => output.write(output.isTTY ? `${CLEAR_LINE}${text}\n` : `${text}\n`)
  const describe = (step: Active) => {
    const detail = step.detail === '' ? '' : ` ${step.detail}`
    return `${step.title}:${detail} (${Math.floor((nowMs() - step.startedMs) / 1000)} s)`
  }
  const tick = () => {
    if (output.isTTY) {
      frame = (frame + 1) % FRAMES.length
      const line = `${FRAMES[frame]} ${[...active].map(describe).join(' · ')}`
      output.write(`${CLEAR_LINE}${line.slice(0, Math.max(20, output.columns - 1))}`)
      return
    }
    for (const step of active) {
      const age = nowMs() - step.startedMs
      if (age < ANNOUNCE_AFTER_MS || nowMs() - step.shownMs < REPEAT_MS) continue
      step.shownMs = nowMs()
      say(`  ${describe(step)}`)
    }
  }
  const retime = () => {
    if (active.size > 0 && timer === undefined) {
      timer = setInterval(tick, output.isTTY ? FRAME_MS : ANNOUNCE_AFTER_MS)
      timer.unref()
    } else if (active.size === 0) pause()
  }
  const pause = () => {
    clearInterval(timer)
    timer = undefined
    if (output.isTTY) output.write(CLEAR_LINE)
  }

  return {
    step(title) {
      const step: Active = { title, detail: '', startedMs: nowMs(), shownMs: Number.NEGATIVE_INFINITY }
      active.add(step)
      retime()
      const end = (mark: string, detail: string) => {
        if (!active.delete(step)) return
        const seconds = (nowMs() - step.startedMs) / 1000
        const took = seconds >= 1 ? ` (${seconds.toFixed(1)} s)` : ''
        say(`${mark} ${step.title}${detail === '' ? '' : `: ${detail}`}${took}`)
        retime()
      }
      return {
        update: (detail) => {
          step.detail = detail
        },
        done: (detail = '') => end('✓', detail),
        failed: () => end('✗', 'failed'),
      }
    },
    note: say,
    pause,
  }
}

/** Runs `work` as a step: its end, good or bad, is shown. */
export async function asStep<T>(
  progress: Progress,
  title: string,
  work: (step: Step) => Promise<{ value: T; detail?: string }>,
): Promise<T> {
  const step = progress.step(title)
  try {
    const { value, detail } = await work(step)
    step.done(detail)
    return value
  } catch (error) {
    step.failed()
    throw error
  }
}

function standardError(): ProgressOutput {
  return {
    write: (text) => void process.stderr.write(text),
    isTTY: process.stderr.isTTY === true,
    get columns() {
      // A terminal that does not know its width says 0.
      return process.stderr.columns || 80
    },
  }
}
