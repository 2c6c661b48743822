// The head of a page and its sections. Owns title, range picker, the line that names zone and freshness, and cards.
import type { ComponentChildren } from 'preact'
import { useEffect, useId } from 'preact/hooks'
import { clock, date } from '../app/format.ts'
import { zoneNow } from '../app/use-url.ts'
import { offsetText } from '../app/zones.ts'
import { RangePicker } from './range-picker.tsx'

export function Page({
  title,
  about,
  ranged = false,
  dataUntil,
  actions,
  children,
}: {
  title: string
  /** One line under the title. */
  about?: ComponentChildren
  /** Shows the picker of the range; useRange() gives what it says. */
  ranged?: boolean
  /** ISO time up to which everything is counted. */
  dataUntil?: string | undefined
  actions?: ComponentChildren
  children: ComponentChildren
}) {
  useEffect(() => {
    document.title = `${title} · Penstock`
  }, [title])
  return (
    <div class="page">
      <header class="page-head">
        <div class="page-title">
          <h1>{title}</h1>
          {about !== undefined && <p class="muted">{about}</p>}
        </div>
        <div class="page-tools">
          {actions}
          {ranged && <RangePicker />}
        </div>
      </header>
      {ranged && <Freshness dataUntil={dataUntil} />}
      {children}
    </div>
  )
}

/** `Times in Europe/Berlin (UTC+01:00) · data until 14:05` */
function Freshness({ dataUntil }: { dataUntil: string | undefined }) {
  const zone = zoneNow()
  const nowMs = Date.now()
  const untilMs = dataUntil === undefined ? undefined : Date.parse(dataUntil)
  const sameDay = untilMs !== undefined && date(untilMs, zone) === date(nowMs, zone)
  return (
    <p class="freshness">
      Times in {zone} (UTC{offsetText(zone, nowMs)})
      {untilMs !== undefined && (
        <>
          {' · '}
          <span title={dataUntil}>
            data until {sameDay ? '' : `${date(untilMs, zone)} `}
            {clock(untilMs, zone)}
          </span>
        </>
      )}
    </p>
  )
}

/** A box with a heading. `flush` for tables, which bring their own inner space. */
export function Card({
  title,
  about,
  actions,
  flush = false,
  children,
}: {
  title?: string
  about?: ComponentChildren
  actions?: ComponentChildren
  flush?: boolean
  children: ComponentChildren
}) {
  const id = useId()
  return (
    <section class={flush ? 'card is-flush' : 'card'} aria-labelledby={title === undefined ? undefined : id}>
      {(title !== undefined || actions !== undefined) && (
        <header class="card-head">
          <div>
            {title !== undefined && <h2 id={id}>{title}</h2>}
            {about !== undefined && <p class="muted">{about}</p>}
          </div>
          {actions !== undefined && <div class="card-actions">{actions}</div>}
        </header>
      )}
      {children}
    </section>
  )
}

/** Side by side where there is room. */
export const Columns = ({ children, even = true }: { children: ComponentChildren; even?: boolean }) => (
  <div class={even ? 'columns' : 'columns columns-wide-first'}>{children}</div>
)
