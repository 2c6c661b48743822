// Where the parts of a model's picture stand. Owns the geometry for a width: the model, its targets under each other, and the edges
// between them with their labels. ○ Pure.
import { duration, percent } from '../../app/format.ts'
import type { Model } from '../../app/wire-admin.ts'
import { answeringOf, policyOf, weightShare } from './words.ts'

export type Box = { x: number; y: number; width: number; height: number }
export type EdgeKind = 'choice' | 'canary' | 'shadow' | 'fallback' | 'cascade' | 'hedge'
export type Edge = {
  id: string
  kind: EdgeKind
  path: string
  /** Of the line, in pixels. */
  weight: number
  label: string | undefined
  labelAt: { x: number; y: number; anchor: 'start' | 'middle' | 'end' }
}
export type Layout = { width: number; height: number; model: Box; targets: Box[]; edges: Edge[] }

/** Below it the model stands above its targets. */
const WIDE = 620
const TARGET_HEIGHT = 60
/** Room for the label of an edge between two targets. */
const BETWEEN = 34
const MODEL_HEIGHT = 56

export function layoutOf(model: Pick<Model, 'targets' | 'policy'>, width: number): Layout {
  const isWide = width >= WIDE
  const { targets } = model
  const left = isWide ? Math.min(360, width * 0.42) : 40
  const top = isWide ? 4 : MODEL_HEIGHT + 32
  const answering = answeringOf(model).map(({ index }) => index)
  // In the order of asking, and what only gets copies below.
  const order = [...answering, ...targets.flatMap((_, index) => (answering.includes(index) ? [] : [index]))]
  const boxes = targets.map(
    (_, index): Box => ({
      x: left,
      y: top + order.indexOf(index) * (TARGET_HEIGHT + BETWEEN),
      width: width - left - 4,
      height: TARGET_HEIGHT,
    }),
  )
  const height = top + targets.length * (TARGET_HEIGHT + BETWEEN) - BETWEEN + 4
  const box: Box = isWide
    ? { x: 4, y: Math.max(4, (height - MODEL_HEIGHT) / 2), width: 168, height: MODEL_HEIGHT }
    : { x: 4, y: 4, width: width - 8, height: MODEL_HEIGHT }
  return { width, height, model: box, targets: boxes, edges: edgesOf(model, box, boxes, isWide) }
}

function edgesOf(model: Pick<Model, 'targets' | 'policy'>, from: Box, boxes: readonly Box[], isWide: boolean): Edge[] {
  const policy = policyOf(model)
  const { canary, shadow, cascade, hedge, strategy } = policy
  const answering = answeringOf(model).flatMap(({ index }) => {
    const box = boxes[index]
    return box === undefined ? [] : [{ box, index }]
  })
  const isOrdered = strategy === 'ordered'
  const edges: Edge[] = []
  const toTarget = (kind: EdgeKind, index: number, weight: number, label: string | undefined) => {
    const box = boxes[index]
    if (box !== undefined) edges.push(reach(`${kind}-${index}`, kind, from, box, isWide, weight, label))
  }
  for (const { index } of answering) {
    const isFirst = index === answering[0]?.index
    const isCanary = canary?.target === index
    const share = weightShare(model, index)
    if (isOrdered && isFirst) toTarget('choice', index, 2.5, answering.length === 1 ? 'all' : 'first')
    else if (!isOrdered && !isCanary && share !== 0)
      toTarget(
        'choice',
        index,
        share === undefined ? 1.75 : 1 + 4 * share,
        share === undefined ? undefined : percent(share),
      )
    if (isCanary) toTarget('canary', index, 2, `${canary.percent} % first`)
  }
  if (shadow !== undefined && boxes.length > 1) toTarget('shadow', shadow.target, 1.5, `${shadow.percent} % copied`)
  answering.forEach(({ box }, at) => {
    const next = answering[at + 1]?.box
    if (next === undefined) return
    const x = box.x + (isWide ? 28 : 20)
    const [y1, y2] = [box.y + box.height, next.y]
    const labelAt = { x: x + 12, y: y2 - BETWEEN / 2 + 4, anchor: 'start' as const }
    const words = [
      cascade === undefined ? (isOrdered ? 'on failure' : 'on failure another') : 'escalates, or on failure',
    ]
    if (hedge !== undefined && (at === 0 || !isOrdered)) words.push(`silent for ${duration(hedge.after_ms)}`)
    const kind = cascade === undefined ? 'fallback' : 'cascade'
    const path = isOrdered ? `M${x} ${y1}V${y2 - 2}` : `M${x} ${y1 + 2}V${y2 - 2}`
    edges.push({ id: `next-${at}`, kind, path, weight: 1.5, label: words.join(' · '), labelAt })
  })
  return edges
}

/** From the model to a target: a curve beside it, or down the left side and to the right. */
function reach(
  id: string,
  kind: EdgeKind,
  from: Box,
  to: Box,
  isWide: boolean,
  weight: number,
  label: string | undefined,
): Edge {
  const y = to.y + to.height / 2
  const end = to.x - 4
  if (isWide) {
    const [x0, y0] = [from.x + from.width, from.y + from.height / 2]
    const middle = (x0 + end) / 2
    const path = `M${x0} ${y0}C${middle} ${y0} ${middle} ${y} ${end} ${y}`
    return { id, kind, path, weight, label, labelAt: { x: end - 8, y: y > y0 + 4 ? y + 18 : y - 8, anchor: 'end' } }
  }
  const x = kind === 'shadow' ? 10 : kind === 'canary' ? 16 : 22
  const path = `M${x} ${from.y + from.height}V${y - 8}q0 8 8 8H${end}`
  // Beside the line there is no room: it stands above the target.
  return { id, kind, path, weight, label, labelAt: { x: to.x + to.width - 4, y: to.y - 6, anchor: 'end' } }
}
