// The keys or models that cost the most. Owns the card; each line leads to its requests.
import { nanoUsd, usd } from '../../app/format.ts'
import type { Loaded } from '../../app/load.ts'
import { href } from '../../app/router.ts'
import { OTHER } from '../../app/stack.ts'
import { DIMENSIONS, nameOf, shareText } from '../../app/usage.ts'
import type { Usage } from '../../app/wire.ts'
import { Bars } from '../../parts/bars.tsx'
import { Card } from '../../parts/page.tsx'
import { Empty, Show, Skeleton } from '../../parts/states.tsx'

export function Ranking({ usage, dimension }: { usage: Loaded<Usage>; dimension: 'key' | 'model' }) {
  const { plural } = DIMENSIONS[dimension]
  return (
    <Card
      title={`Top ${plural}`}
      actions={
        <a class="button button-small" href={href('/explore', { by: dimension === 'model' ? undefined : dimension })}>
          Explore
        </a>
      }
    >
      <Show of={usage} skeleton={<Skeleton rows={6} height={28} />}>
        {({ data, total, names }) => {
          if (data.length === 0) return <Empty title="No requests in this range" icon="explore" />
          const whole = nanoUsd(total.cost_nanousd)
          const most = Math.max(...data.map(({ cost_nanousd: cost }) => Number(cost)), 1)
          const bars = data.map((line) => {
            const { id, label } = nameOf(line, dimension, names)
            const cost = nanoUsd(line.cost_nanousd)
            return {
              id,
              label,
              share: Number(cost) / most,
              text: usd(cost),
              note: shareText(cost, whole),
              href: id === OTHER ? undefined : href('/requests', { [dimension]: id }),
              colour: id === OTHER ? 0 : 1,
            }
          })
          return <Bars label={`Spend of the top ${plural}`} bars={bars} />
        }}
      </Show>
    </Card>
  )
}
