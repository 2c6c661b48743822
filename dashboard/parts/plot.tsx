// The canvas of a chart. Owns uPlot: drawing of bars and lines in the colours of the theme, the cursor, and its tooltip by
// mouse, touch and arrow keys. Steps are places in a row, not instants: a day of 23 hours is as wide as any other.
import { useEffect, useMemo, useRef, useState } from 'preact/hooks'
import uPlot from 'uplot'
import { clock, dayAndMonth, monthAndYear, NOTHING } from '../app/format.ts'
import { type Amount, axisOf, type Series, stacked, total } from '../app/stack.ts'
import { cssColour, shownTheme } from '../app/theme.ts'
import type { Step, Tick } from '../app/time-range.ts'
import { localTime } from '../app/zones.ts'
import { PLOT_PX, tickText } from './chart.tsx'

export type Kind = 'bars' | 'lines'
type Coloured = Series & { colour: string }

/** Room that one label of the time axis takes, in px. */
const LABEL_PX = 76
const AXIS_LINES = 4
const BAR_SHARE = 0.72
const BAR_MAX_PX = 48

export type PlotProps = {
  label: string
  ticks: readonly Tick[]
  step: Step
  zone: string
  series: readonly Coloured[]
  kind: Kind
  format: (value: Amount) => string
  axis?: (value: Amount) => string
  height?: number
  onPick?: ((tick: Tick) => void) | undefined
  adds: boolean
}

export function Plot({
  label,
  ticks,
  step,
  zone,
  series,
  kind,
  format,
  axis = format,
  height = PLOT_PX,
  onPick,
  adds,
}: PlotProps) {
  const box = useRef<HTMLDivElement>(null)
  const plot = useRef<uPlot | undefined>(undefined)
  const [at, setAt] = useState<number | undefined>()
  const theme = shownTheme.value
  const isMoney = series.some(({ values }) => values.some((value) => typeof value === 'bigint'))
  const data = useMemo(() => tableOf(ticks.length, series, kind), [ticks, series, kind])
  const pick = useRef(onPick)
  pick.current = onPick

  useEffect(() => {
    const element = box.current
    if (element === null) return
    const largest = Math.max(0, ...data.slice(1).flatMap((line) => line.map((value) => value ?? 0)))
    const scale = axisOf(largest, AXIS_LINES)
    const axisText = (value: number) => axis(isMoney ? BigInt(Math.round(value)) : value)
    const widest = Math.max(...scale.splits.map((value) => axisText(value).length))
    const made = new uPlot(
      {
        width: Math.max(160, element.clientWidth),
        height,
        padding: [10, 4, 0, 0],
        legend: { show: false },
        cursor: { y: false, drag: { x: false, y: false, setScale: false }, points: { show: kind === 'lines' } },
        scales: {
          x: { time: false, range: () => [-0.5, Math.max(0.5, ticks.length - 0.5)] },
          y: { range: () => [0, scale.max] },
        },
        axes: [
          {
            stroke: cssColour('--text-muted'),
            font: `12px ${cssColour('--font')}`,
            grid: { show: false },
            ticks: { show: false },
            size: 28,
            gap: 8,
            splits: (self) => labelPlaces(ticks, step, zone, self.bbox.width / window.devicePixelRatio),
            values: (_, places) => places.map((place) => axisLabel(ticks[place], step, zone)),
          },
          {
            stroke: cssColour('--text-muted'),
            font: `12px ${cssColour('--font')}`,
            grid: { stroke: cssColour('--line'), width: 1 },
            ticks: { show: false },
            size: Math.max(36, widest * 7 + 14),
            gap: 8,
            splits: () => scale.splits,
            values: (_, splits) => splits.map(axisText),
          },
        ],
        series: [{}, ...drawn(series, kind)],
        hooks: { setCursor: [({ cursor }) => setAt(cursor.idx ?? undefined)] },
      },
      data as uPlot.AlignedData,
      element,
    )
    plot.current = made
    const over = made.over
    const click = () => {
      const tick = made.cursor.idx == null ? undefined : ticks[made.cursor.idx]
      if (tick !== undefined) pick.current?.(tick)
    }
    over.addEventListener('click', click)
    const resize = new ResizeObserver(() => {
      if (element.clientWidth > 0 && element.clientWidth !== made.width)
        made.setSize({ width: element.clientWidth, height })
    })
    resize.observe(element)
    return () => {
      resize.disconnect()
      made.destroy()
      plot.current = undefined
      setAt(undefined)
    }
  }, [data, ticks, step, zone, height, theme, kind, isMoney])

  const tick = at === undefined ? undefined : ticks[at]
  const move = (event: KeyboardEvent) => {
    const from = at ?? (event.key === 'ArrowLeft' ? ticks.length : -1)
    const to = { ArrowRight: from + 1, ArrowLeft: from - 1, Home: 0, End: ticks.length - 1 }[event.key]
    if (event.key === 'Enter' && tick !== undefined) return onPick?.(tick)
    if (event.key === 'Escape') return setAt(undefined)
    if (to === undefined || to < 0 || to >= ticks.length) return
    event.preventDefault()
    setAt(to)
    const left = plot.current?.valToPos(to, 'x')
    if (left !== undefined) plot.current?.setCursor({ left, top: height / 2 }, false)
  }
  return (
    <section
      class={onPick === undefined ? 'plot' : 'plot is-link'}
      // biome-ignore lint/a11y/noNoninteractiveTabindex: arrow keys read it step by step
      tabIndex={0}
      onKeyDown={move}
      aria-label={`Chart: ${label}. Arrow keys read it step by step; its table has all figures.`}
    >
      <div ref={box} style={{ height: `${height}px` }} />
      {tick !== undefined && at !== undefined && (
        <Tip tick={tick} at={at} plot={plot.current} {...{ step, zone, series, format, adds }} />
      )}
    </section>
  )
}

function Tip({
  tick,
  at,
  plot,
  step,
  zone,
  series,
  format,
  adds,
}: {
  tick: Tick
  at: number
  plot: uPlot | undefined
  step: Step
  zone: string
  series: readonly Coloured[]
  format: (value: Amount) => string
  adds: boolean
}) {
  const left = plot === undefined ? 0 : plot.valToPos(at, 'x') + plot.over.offsetLeft
  const isRight = plot !== undefined && left > plot.width / 2
  const known = series.filter(({ values }) => values[at] !== undefined && Number(values[at]) !== 0)
  const sum = total(series.map(({ values }) => values[at]))
  return (
    <div
      class="tip"
      role="status"
      aria-live="polite"
      style={isRight ? { right: `${(plot?.width ?? 0) - left + 12}px` } : { left: `${left + 12}px` }}
    >
      <p class="tip-head">{tickText(tick, step, zone)}</p>
      {known.length === 0 && <p class="muted">Nothing</p>}
      <ul>
        {known.map((one) => (
          <li key={one.id}>
            <span class="legend-mark" style={{ background: `var(${one.colour})` }} aria-hidden="true" />
            <span class="tip-name">{one.label}</span>
            <span class="tip-value">{format(one.values[at] ?? 0)}</span>
          </li>
        ))}
      </ul>
      {adds && known.length > 1 && (
        <p class="tip-sum">
          <span>Sum</span>
          <span class="tip-value">{sum === undefined ? NOTHING : format(sum)}</span>
        </p>
      )}
    </div>
  )
}

/** Rows for uPlot. Stacked bars are drawn from the top of the stack down, so that each covers the lower part of the one before. */
function tableOf(length: number, series: readonly Coloured[], kind: Kind): (number | null)[][] {
  const places = Array.from({ length }, (_, index) => index)
  if (kind === 'bars') return [places, ...stacked(series).reverse()]
  return [
    places,
    ...series.map(({ values }) => places.map((index) => (values[index] === undefined ? null : Number(values[index])))),
  ]
}

function drawn(series: readonly Coloured[], kind: Kind): uPlot.Series[] {
  if (kind === 'lines')
    return series.map(({ label, colour }) => ({
      label,
      stroke: cssColour(colour),
      width: 2,
      points: { size: 5, fill: cssColour(colour) },
    }))
  const paths = uPlot.paths.bars?.({ size: [BAR_SHARE, BAR_MAX_PX], gap: 0 })
  return [...series].reverse().map(({ label, colour }) => ({
    label,
    fill: cssColour(colour),
    width: 0,
    points: { show: false },
    ...(paths === undefined ? {} : { paths }),
  }))
}

/** Steps that get a label: as many as fit, midnights first where steps are hours. */
function labelPlaces(ticks: readonly Tick[], step: Step, zone: string, widthPx: number): number[] {
  const most = Math.max(2, Math.floor(widthPx / LABEL_PX))
  const places = ticks.map((_, index) => index)
  const every = (list: number[]) => {
    const stride = Math.ceil(list.length / most)
    return list.filter((_, index) => index % stride === 0)
  }
  if (step !== 'hour' || ticks.length <= most) return every(places)
  const stride = [1, 2, 3, 4, 6, 12, 24, 48, 96].find((hours) => ticks.length / hours <= most) ?? 168
  return places.filter((place) => {
    const tick = ticks[place]
    if (tick === undefined) return false
    const hour = Number(localTime(zone, tick.startMs).slice(11, 13))
    return stride <= 24 ? hour % stride === 0 : hour === 0 && Math.floor(place / 24) % (stride / 24) === 0
  })
}

function axisLabel(tick: Tick | undefined, step: Step, zone: string): string {
  if (tick === undefined) return ''
  if (step === 'month') return monthAndYear(tick.startMs, zone)
  if (step === 'day') return dayAndMonth(tick.startMs, zone)
  const time = clock(tick.startMs, zone)
  return time === '00:00' ? dayAndMonth(tick.startMs, zone) : time
}
