// What is asked: metric, dimensions, step, how many. Owns the row of controls above the answer.
import { type Span, STEPS, type Step, stepFits } from '../../app/time-range.ts'
import { DIMENSIONS, type GroupBy, groupLabel, METRIC_NAMES, METRICS } from '../../app/usage.ts'
import type { Dimension } from '../../app/wire.ts'
import { Segments, SelectField } from '../../parts/field.tsx'
import type { ExploreState } from '../explore.tsx'

const TOPS = ['5', '10', '20', '50', '100'] as const
const STEP_NAMES: Readonly<Record<Step, string>> = { hour: 'Hour', day: 'Day', month: 'Month' }

const DIMENSION_NAMES = Object.keys(DIMENSIONS).filter((name): name is Dimension => Object.hasOwn(DIMENSIONS, name))

export function Controls({
  state,
  onChange,
  step,
  span,
  tags,
}: {
  state: ExploreState
  onChange: (change: Partial<ExploreState>) => void
  step: Step
  span: Span
  tags: readonly string[]
}) {
  const groups: GroupBy[] = [...DIMENSION_NAMES, ...tags.map((name): GroupBy => `tag:${name}`)]
  // A tag of the address that nobody uses any more is still what is asked.
  for (const asked of [state.by, state.and]) if (asked !== undefined && !groups.includes(asked)) groups.push(asked)
  const choices = groups.map((value) => ({ value, label: groupLabel(value) }))
  const top = String(state.top)
  return (
    <div class="filters">
      <SelectField
        label="Metric"
        value={state.metric}
        // Another metric is looked at by its own order.
        onChange={(metric) => onChange({ metric, sort: undefined })}
        choices={METRIC_NAMES.map((value) => ({ value, label: METRICS[value].label }))}
      />
      <SelectField label="By" value={state.by} onChange={(by) => onChange({ by })} choices={choices} />
      <SelectField
        label="And by"
        value={state.and === state.by ? '' : (state.and ?? '')}
        onChange={(and) => onChange({ and: and === '' ? undefined : and })}
        choices={[{ value: '', label: 'Nothing' }, ...choices.filter(({ value }) => value !== state.by)]}
      />
      <SelectField
        label="Show"
        value={top}
        onChange={(next) => onChange({ top: Number(next) })}
        choices={[...TOPS, ...(TOPS.some((one) => one === top) ? [] : [top])].map((value) => ({
          value,
          label: `Top ${value}`,
        }))}
      />
      <div class="field">
        <span class="field-label">Step</span>
        <Segments
          label="Step of time"
          value={step}
          onChange={(next) => onChange({ step: next === span.step ? 'auto' : next })}
          choices={STEPS.map((value) => ({ value, label: STEP_NAMES[value], disabled: !stepFits(span, value) }))}
        />
      </div>
    </div>
  )
}
