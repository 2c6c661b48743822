// A model as a picture: which targets it chooses among, and what follows what. Owns the drawing; where things stand is layout.ts, and
// the same in words words.ts.
import type { ComponentChildren } from 'preact'
import { useLayoutEffect, useRef, useState } from 'preact/hooks'
import type { Model, Price } from '../../app/wire-admin.ts'
import { type HealthRow, STANDING_WORDS, successOf } from './health-rows.ts'
import { type Box, type EdgeKind, layoutOf } from './layout.ts'
import { priceOf, priceText } from './prices.ts'
import { isShadow, policyOf, STRATEGY_WORDS, sentences, targetName } from './words.ts'

/** Before the page was measured. */
const WIDTH = 720

const KINDS: readonly { kind: EdgeKind; words: string }[] = [
  { kind: 'choice', words: 'chosen' },
  { kind: 'canary', words: 'canary' },
  { kind: 'fallback', words: 'after a failure' },
  { kind: 'cascade', words: 'cascade' },
  { kind: 'shadow', words: 'copy, not answered' },
]

export function Picture({
  model,
  prices,
  rows,
}: {
  model: Model
  prices: readonly Price[]
  rows: readonly HealthRow[]
}) {
  const holder = useRef<HTMLDivElement>(null)
  const [width, setWidth] = useState(WIDTH)
  useLayoutEffect(() => {
    const element = holder.current
    if (element === null) return
    const measure = () => setWidth(Math.max(260, Math.floor(element.clientWidth)))
    measure()
    const observer = new ResizeObserver(measure)
    observer.observe(element)
    return () => observer.disconnect()
  }, [])
  const layout = layoutOf(model, width)
  const used = new Set(layout.edges.map(({ kind }) => kind))
  const nowMs = Date.now()
  return (
    <div class="picture" ref={holder}>
      <svg
        width={layout.width}
        height={layout.height}
        viewBox={`0 0 ${layout.width} ${layout.height}`}
        aria-hidden="true"
      >
        <defs>
          {KINDS.map(({ kind }) => (
            <marker
              key={kind}
              id={`end-${kind}`}
              class={`edge-end edge-${kind}`}
              viewBox="0 0 8 8"
              refX="6"
              refY="4"
              markerWidth="9"
              markerHeight="9"
              markerUnits="userSpaceOnUse"
              orient="auto-start-reverse"
            >
              <path d="M1 1 7 4 1 7z" />
            </marker>
          ))}
        </defs>
        {layout.edges.map(({ id, kind, path, weight }) => (
          <path
            key={id}
            class={`edge edge-${kind}`}
            d={path}
            stroke-width={weight}
            marker-end={`url(#end-${kind})`}
            marker-start={
              kind === 'fallback' && policyOf(model).strategy !== 'ordered' ? `url(#end-${kind})` : undefined
            }
          />
        ))}
        <BoxOf box={layout.model} kind="model">
          <text class="box-title" x={layout.model.x + 14} y={layout.model.y + 24}>
            {cut(model.name, layout.model.width - 28)}
          </text>
          <text class="box-note" x={layout.model.x + 14} y={layout.model.y + 42}>
            {STRATEGY_WORDS[policyOf(model).strategy]}
            {policyOf(model).sticky === undefined ? '' : ', sticky'}
          </text>
        </BoxOf>
        {model.targets.map((target, index) => {
          const box = layout.targets[index]
          if (box === undefined) return null
          const health = healthOf(rows, target.provider, target.model)
          const price = priceOf(prices, target, nowMs)
          return (
            <BoxOf key={index} box={box} kind={isShadow(model, index) ? 'shadow' : 'target'}>
              <circle class={`health-dot is-${health.kind}`} cx={box.x + 17} cy={box.y + 20} r="4" />
              <text class="box-title" x={box.x + 28} y={box.y + 25}>
                {cut(targetName(target), box.width - 40)}
              </text>
              <text class={price === undefined ? 'box-note is-missing' : 'box-note'} x={box.x + 28} y={box.y + 44}>
                {cut(`${priceText(price)} · ${health.words}`, box.width - 40, 6.2)}
              </text>
            </BoxOf>
          )
        })}
        {layout.edges.map(
          ({ id, label, labelAt }) =>
            label !== undefined && (
              <text key={`${id} label`} class="edge-label" x={labelAt.x} y={labelAt.y} text-anchor={labelAt.anchor}>
                {label}
              </text>
            ),
        )}
      </svg>
      <ul class="legend picture-legend" aria-hidden="true">
        {KINDS.filter(({ kind }) => used.has(kind)).map(({ kind, words }) => (
          <li key={kind}>
            <svg width="24" height="8" aria-hidden="true">
              <path class={`edge edge-${kind}`} d="M0 4H24" stroke-width="2" />
            </svg>
            {words}
          </li>
        ))}
      </ul>
      <ul class="consequences picture-words" aria-label={`How ${model.name} chooses`}>
        {sentences(model).map((sentence) => (
          <li key={sentence}>{sentence}</li>
        ))}
      </ul>
    </div>
  )
}

function BoxOf({ box, kind, children }: { box: Box; kind: string; children: ComponentChildren }) {
  return (
    <g>
      <rect class={`box box-${kind}`} x={box.x} y={box.y} width={box.width} height={box.height} rx="8" />
      {children}
    </g>
  )
}

/** SVG text does not wrap: cut by the usual width of a letter. */
function cut(text: string, width: number, letter = 7.4): string {
  const letters = Math.max(4, Math.floor(width / letter))
  return text.length <= letters ? text : `${text.slice(0, letters - 1)}…`
}

/** Over all keys of the target: the worst breaker, and the share that answered. */
export function healthOf(
  rows: readonly HealthRow[],
  provider: string,
  model: string,
): { kind: 'good' | 'warning' | 'danger' | 'unknown'; words: string } {
  const own = rows.filter((row) => row.provider === provider && row.model === model)
  const standing = own.find(({ breaker }) => breaker !== undefined)?.breaker?.standing
  if (standing !== undefined && standing !== 'closed')
    return { kind: standing === 'half_open' ? 'warning' : 'danger', words: STANDING_WORDS[standing].toLowerCase() }
  const windows = own.flatMap(({ window }) => (window === undefined ? [] : [window]))
  const ok = windows.reduce((sum, window) => sum + window.ok, 0)
  const failed = windows.reduce((sum, window) => sum + window.failed, 0)
  const success = windows[0] === undefined ? undefined : successOf({ ...windows[0], ok, failed })
  if (success === undefined) return { kind: 'unknown', words: 'no traffic' }
  const words = `${Math.round(success * 1_000) / 10} % answered`
  return { kind: success >= 0.98 ? 'good' : success >= 0.5 ? 'warning' : 'danger', words }
}
