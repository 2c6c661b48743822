// Series over time: stacked bars or lines. Owns axes, tooltip, legend, reading by keyboard, and the table of the same figures.
// The canvas is uPlot's (plot.ts); what stands at a pixel is app/stack.ts.
import type { ComponentType } from 'preact'
import { useEffect, useMemo, useState } from 'preact/hooks'
import { clock, date, dayAndMonth, monthAndYear, NOTHING } from '../app/format.ts'
import { type Amount, OTHER, type Series, total } from '../app/stack.ts'
import type { Step, Tick } from '../app/time-range.ts'
import { Icon } from './icon.tsx'
import type { Kind, PlotProps } from './plot.tsx'
import { Note } from './states.tsx'
import { type Column, Table } from './table.tsx'

let arriving: Promise<ComponentType<PlotProps>> | undefined
let arrived: ComponentType<PlotProps> | undefined

/** Begins to fetch what draws: pages with charts say so at once, and it comes while their figures are read. */
export function fetchPlot(): Promise<ComponentType<PlotProps>> {
  arriving ??= import('./plot.tsx').then(({ Plot }) => {
    arrived = Plot
    return Plot
  })
  // Whoever waits for it is told; the next chart tries again.
  arriving.catch(() => {
    arriving = undefined
  })
  return arriving
}

export type ChartProps = {
  /** What is shown, for screen readers and for the file. */
  label: string
  /** Steps from left to right; `values` of each series stand at the same places. */
  ticks: readonly Tick[]
  step: Step
  zone: string
  series: readonly Series[]
  /** `bars` are stacked; lines are not. */
  kind: Kind
  /** Amounts in words: bigint for money, so that no digit is lost. */
  format: (value: Amount) => string
  /** Shorter, for the axis. */
  axis?: (value: Amount) => string
  /** What the file holds: a decimal. Default: the amount itself. */
  csv?: (value: Amount) => string
  height?: number
  /** A step was clicked. */
  onPick?: (tick: Tick) => void
  /** Where sums mean something: in the legend and the tooltip. Not for percentiles. */
  adds?: boolean
}

/** Of a plot, where nobody says otherwise. */
export const PLOT_PX = 240
/** Series with a colour of their own. */
export const COLOURS = 8

/** The same colour for the same place in the ranking; grey for all others. */
const colourName = (id: string, index: number): string =>
  id === OTHER ? '--series-other' : `--series-${(index % COLOURS) + 1}`

/** `Sat 22 Nov, 05:00` as the step asks. */
export function tickText(tick: Tick, step: Step, zone: string): string {
  switch (step) {
    case 'hour':
      return `${dayAndMonth(tick.startMs, zone)}, ${clock(tick.startMs, zone)}`
    case 'day':
      return date(tick.startMs, zone)
    case 'month':
      return monthAndYear(tick.startMs, zone)
    default:
      return step satisfies never
  }
}

export function Chart(props: ChartProps) {
  const { label, series, format, adds = props.kind === 'bars', csv = String } = props
  const [hidden, setHidden] = useState<ReadonlySet<string>>(new Set())
  const [asTable, setAsTable] = useState(false)
  const shown = useMemo(
    () => series.flatMap((one, index) => (hidden.has(one.id) ? [] : [{ ...one, colour: colourName(one.id, index) }])),
    [series, hidden],
  )
  const toggle = (id: string) =>
    setHidden((before) => {
      const next = new Set(before)
      if (!next.delete(id)) next.add(id)
      // With the last one gone there is nothing left to look at.
      return next.size === series.length ? new Set() : next
    })
  return (
    <div class="chart">
      {asTable ? <Data {...props} adds={adds} csv={csv} /> : <Canvas {...props} adds={adds} series={shown} />}
      <div class="chart-foot">
        <ul class="legend" aria-label={`Series of ${label}`}>
          {series.map((one, index) => {
            const sum = adds ? total(one.values) : undefined
            return (
              <li key={one.id}>
                <button
                  type="button"
                  class={hidden.has(one.id) ? 'legend-item is-off' : 'legend-item'}
                  aria-pressed={!hidden.has(one.id)}
                  onClick={() => toggle(one.id)}
                >
                  <span
                    class="legend-mark"
                    style={{ background: `var(${colourName(one.id, index)})` }}
                    aria-hidden="true"
                  />
                  <span class="legend-name">{one.label}</span>
                  {sum !== undefined && <span class="legend-sum">{format(sum)}</span>}
                </button>
              </li>
            )
          })}
        </ul>
        <button
          type="button"
          class="button button-small button-quiet"
          aria-pressed={asTable}
          onClick={() => setAsTable(!asTable)}
        >
          <Icon name={asTable ? 'explore' : 'table'} />
          {asTable ? 'Chart' : 'Table'}
          <span class="visually-hidden"> of {label}</span>
        </button>
      </div>
    </div>
  )
}

/** As high as what will come, so that nothing moves. Without the drawing the table has the same figures. */
function Canvas(props: PlotProps) {
  const [Plot, setPlot] = useState(() => arrived)
  const [isLost, setLost] = useState(false)
  useEffect(() => {
    if (Plot !== undefined) return
    fetchPlot().then(
      (found) => setPlot(() => found),
      () => setLost(true),
    )
  }, [Plot])
  if (Plot !== undefined) return <Plot {...props} />
  if (isLost) return <Note kind="warning">The code of this chart could not be fetched; the table has its figures.</Note>
  const height = `${props.height ?? PLOT_PX}px`
  return <div class="chart-skeleton" style={{ height }} role="status" aria-label="Loading" />
}

/** The same figures as rows, one for each step. */
function Data({ label, ticks, step, zone, series, format, adds = false, csv = String }: ChartProps) {
  const amountText = (value: Amount | undefined) => (value === undefined ? NOTHING : format(value))
  const decimalOf = (value: Amount | undefined) => (value === undefined ? undefined : { decimal: csv(value) })
  const amounts = (id: string, head: string, at: (index: number) => Amount | undefined): Column<number> => ({
    id,
    head,
    align: 'end',
    value: at,
    cell: (index) => amountText(at(index)),
    csv: (index) => decimalOf(at(index)),
  })
  const columns: Column<number>[] = [
    {
      id: 'time',
      head: step === 'hour' ? 'Hour' : step === 'day' ? 'Day' : 'Month',
      value: (index) => ticks[index]?.key,
      cell: (index) => {
        const tick = ticks[index]
        return tick === undefined ? '' : tickText(tick, step, zone)
      },
    },
    ...series.map((one) => amounts(one.id, one.label, (index) => one.values[index])),
    ...(adds && series.length > 1
      ? [amounts('=', 'Sum', (index) => total(series.map((one) => one.values[index])))]
      : []),
  ]
  return (
    <Table
      caption={label}
      columns={columns}
      rows={ticks.map((_, index) => index)}
      rowKey={String}
      defaultSort={{ column: 'time', descending: true }}
      file={fileName(label)}
      pageRows={12}
    />
  )
}

/** `spend-by-model` */
export const fileName = (label: string): string =>
  label
    .toLowerCase()
    .replaceAll(/[^a-z0-9]+/g, '-')
    .replaceAll(/^-|-$/g, '')
