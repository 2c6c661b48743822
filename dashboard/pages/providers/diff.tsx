// What changes between two states of the catalog. Owns the list of changes, by object and field, as text that can be read without its
// colours.
import type { ConfigChange } from '../../app/wire-admin.ts'
import { Badge } from '../../parts/badge.tsx'

const ACTIONS = {
  add: { kind: 'good', words: 'Added' },
  change: { kind: 'warning', words: 'Changed' },
  remove: { kind: 'danger', words: 'Removed' },
} as const

export function Changes({ changes, none }: { changes: readonly ConfigChange[]; none: string }) {
  if (changes.length === 0) return <p class="muted">{none}</p>
  return (
    <ul class="changes">
      {changes.map(({ object, name, action, fields }) => (
        <li key={`${object} ${name}`} class="change-box">
          <div class="row">
            <Badge kind={ACTIONS[action].kind}>{ACTIONS[action].words}</Badge>
            <span>
              <span class="muted">{object}</span> <strong class="break">{name}</strong>
            </span>
          </div>
          <dl class="change-fields">
            {fields.map(({ path, before, after }) => (
              <div key={path}>
                <dt>
                  <code>{path}</code>
                </dt>
                <dd>
                  {before !== undefined && (
                    <del>
                      <span class="visually-hidden">before: </span>
                      <code>{text(before)}</code>
                    </del>
                  )}
                  {before !== undefined && after !== undefined && <span aria-hidden="true">→</span>}
                  {after !== undefined && (
                    <ins>
                      <span class="visually-hidden">after: </span>
                      <code>{text(after)}</code>
                    </ins>
                  )}
                </dd>
              </div>
            ))}
          </dl>
        </li>
      ))}
    </ul>
  )
}

const text = (value: unknown): string =>
  typeof value === 'object' && value !== null
    ? JSON.stringify(value, undefined, 1).replaceAll(/\n\s*/g, ' ')
    : JSON.stringify(value)

/** `2 added, 1 changed` */
export function summaryText({ added, changed, removed }: { added: number; changed: number; removed: number }): string {
  const words = [
    ...(added > 0 ? [`${added} added`] : []),
    ...(changed > 0 ? [`${changed} changed`] : []),
    ...(removed > 0 ? [`${removed} removed`] : []),
  ]
  return words.length === 0 ? 'no change' : words.join(', ')
}
