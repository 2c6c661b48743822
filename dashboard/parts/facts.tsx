// Names and values under each other: what one thing is. Owns the list.
import type { ComponentChildren } from 'preact'

export function Facts({
  facts,
}: {
  facts: readonly (readonly [name: string, value: ComponentChildren] | undefined)[]
}) {
  return (
    <dl class="facts">
      {facts.flatMap((fact) =>
        fact === undefined
          ? []
          : [
              <div key={fact[0]} class="fact">
                <dt>{fact[0]}</dt>
                <dd>{fact[1]}</dd>
              </div>,
            ],
      )}
    </dl>
  )
}
