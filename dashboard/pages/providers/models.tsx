// Virtual models: the list, and one of them as a picture with its targets, prices and policy. Owns the tab.
import { count, duration, NOTHING } from '../../app/format.ts'
import { href } from '../../app/router.ts'
import { optionalText } from '../../app/url-state.ts'
import { useUrlState } from '../../app/use-url.ts'
import type { Model, Price, ProvidersHealth, Target } from '../../app/wire-admin.ts'
import { Badge } from '../../parts/badge.tsx'
import { Facts } from '../../parts/facts.tsx'
import { TextField } from '../../parts/field.tsx'
import { Card } from '../../parts/page.tsx'
import { Empty } from '../../parts/states.tsx'
import { Table } from '../../parts/table.tsx'
import { healthRows } from './health-rows.ts'
import { healthOf, Picture } from './picture.tsx'
import { amountText, priceOf } from './prices.ts'
import { isShadow, policyOf, STRATEGY_WORDS, targetName, weightShare } from './words.ts'

const FILTERS = { model: optionalText, q: optionalText }
/** Names on the screen at once; the search finds the others. */
const NAMES_MAX = 60

export function Models({
  models,
  prices,
  health,
}: {
  models: readonly Model[]
  prices: readonly Price[]
  health: ProvidersHealth | undefined
}) {
  const [filters, setFilters] = useUrlState(FILTERS)
  const rows = health === undefined ? [] : healthRows(health, models, 60)
  const asked = filters.q?.toLowerCase() ?? ''
  const found = models.filter(({ name, targets }) =>
    `${name} ${targets.map(targetName).join(' ')}`.toLowerCase().includes(asked),
  )
  const shown = models.find(({ name }) => name === filters.model) ?? found[0] ?? models[0]
  if (models.length === 0)
    return (
      <Card>
        <Empty title="No model yet" icon="providers">
          A model is a name that callers use, with the targets behind it. The configuration tab adds them.
        </Empty>
      </Card>
    )
  return (
    <div class="models">
      <nav class="card models-list" aria-label="Models">
        <TextField
          label="Search models"
          type="search"
          value={filters.q ?? ''}
          placeholder="Name, provider, target"
          onInput={(q) => setFilters({ q }, { replace: true })}
        />
        <ul>
          {found.slice(0, NAMES_MAX).map((model) => (
            <li key={model.name}>
              <a
                class="models-link"
                href={href('/providers', { tab: 'models', model: model.name, q: filters.q })}
                aria-current={model.name === shown?.name ? 'true' : undefined}
              >
                <span class="break">{model.name}</span>
                <span class="muted small">
                  {STRATEGY_WORDS[policyOf(model).strategy]} · {count(model.targets.length)}
                </span>
              </a>
            </li>
          ))}
        </ul>
        {found.length === 0 && <p class="muted small">No model matches.</p>}
        {found.length > NAMES_MAX && <p class="muted small">{count(found.length - NAMES_MAX)} more: search.</p>}
      </nav>
      {shown !== undefined && (
        <div class="stack">
          <Card
            title={shown.name}
            about="Prices in dollars per million tokens; health of the last hour."
            actions={
              <>
                {badges(shown).map((words) => (
                  <Badge key={words} kind="accent">
                    {words}
                  </Badge>
                ))}
                <a class="button button-small" href={href('/playground', { model: shown.name })}>
                  Try it
                </a>
                <a class="button button-small" href={href('/requests', { model: shown.name })}>
                  Its requests
                </a>
              </>
            }
          >
            <Picture model={shown} prices={prices} rows={rows} />
          </Card>
          <Card flush>
            <Targets model={shown} prices={prices} rows={rows} />
          </Card>
          <Card title="Policy">
            <Facts facts={policyFacts(shown)} />
          </Card>
        </div>
      )}
    </div>
  )
}

function badges(model: Model): string[] {
  const { canary, cascade, shadow, hedge } = policyOf(model)
  return [
    ...(canary === undefined ? [] : ['canary']),
    ...(cascade === undefined ? [] : ['cascade']),
    ...(shadow === undefined ? [] : ['shadow']),
    ...(hedge === undefined ? [] : ['hedge']),
  ]
}

type Row = { target: Target; index: number; price: Price | undefined }

function Targets({
  model,
  prices,
  rows,
}: {
  model: Model
  prices: readonly Price[]
  rows: Parameters<typeof healthOf>[0]
}) {
  const nowMs = Date.now()
  const all = model.targets.map((target, index): Row => ({ target, index, price: priceOf(prices, target, nowMs) }))
  const money = (id: string, head: string, part: 'input_uncached' | 'input_cache_read' | 'output_text') => ({
    id,
    head,
    align: 'end' as const,
    csv: ({ price }: Row) => {
      const amount = price?.usd_per_million[part]
      return amount === undefined ? undefined : { decimal: amount }
    },
    cell: ({ price }: Row) => {
      const amount = price?.usd_per_million[part]
      return amount === undefined ? <span class="muted">{NOTHING}</span> : amountText(amount)
    },
  })
  return (
    <Table
      caption={`Targets of ${model.name}`}
      showCaption
      file={`targets-of-${model.name.replaceAll(/[^a-z0-9.-]+/gi, '-')}`}
      rows={all}
      rowKey={({ index }) => String(index)}
      columns={[
        { id: 'place', head: '#', align: 'end', value: ({ index }) => index + 1, cell: ({ index }) => index + 1 },
        {
          id: 'target',
          head: 'Target',
          grow: true,
          value: ({ target }) => targetName(target),
          cell: ({ target, index }) => (
            <span class="target-name">
              {targetName(target)}
              {target.service_tier !== undefined && <Badge>{target.service_tier}</Badge>}
              {target.region !== undefined && <Badge>{target.region}</Badge>}
              {isShadow(model, index) && <Badge>shadow</Badge>}
            </span>
          ),
        },
        {
          id: 'weight',
          head: 'Weight',
          align: 'end',
          value: ({ target }) => target.weight ?? 1,
          cell: ({ target, index }) =>
            weightShare(model, index) === undefined ? <span class="muted">{NOTHING}</span> : count(target.weight ?? 1),
        },
        {
          id: 'window',
          head: 'Window',
          align: 'end',
          value: ({ target }) => target.context_tokens,
          cell: ({ target }) => count(target.context_tokens),
        },
        {
          id: 'most',
          head: 'Most output',
          align: 'end',
          value: ({ target }) => target.output_tokens_max,
          cell: ({ target: { output_tokens_max: most } }) =>
            most === undefined ? <span class="muted">{NOTHING}</span> : count(most),
        },
        money('input', 'Input $/M', 'input_uncached'),
        money('cached', 'Cached $/M', 'input_cache_read'),
        money('output', 'Output $/M', 'output_text'),
        {
          id: 'health',
          head: 'Last hour',
          value: ({ target }) => healthOf(rows, target.provider, target.model).words,
          cell: ({ target }) => healthOf(rows, target.provider, target.model).words,
        },
      ]}
    />
  )
}

function policyFacts(model: Model): (readonly [string, string] | undefined)[] {
  const policy = policyOf(model)
  const time = (name: string, ms: number | undefined, fallback: string) =>
    [name, ms === undefined ? fallback : duration(ms)] as const
  return [
    ['Strategy', STRATEGY_WORDS[policy.strategy]],
    ['Attempts at most', count(policy.attempts_max)],
    ['Sticky', policy.sticky === undefined ? 'no' : policy.sticky.replace('_', ' ')],
    time('First token within', policy.first_token_timeout_ms, '120 s, the default'),
    time('Silence at most', policy.idle_timeout_ms, '300 s, the default'),
    ['Falls back also after', policy.fallback_on.join(', ').replaceAll('_', ' ') || 'nothing more'],
    policy.cascade === undefined
      ? undefined
      : ['Escalates on', policy.cascade.escalate_on.join(', ').replaceAll('_', ' ')],
    policy.first_token_target_ms === undefined
      ? undefined
      : time('Own machines promise a first token within', policy.first_token_target_ms, ''),
    policy.inter_token_target_ms === undefined
      ? undefined
      : time('and each next one within', policy.inter_token_target_ms, ''),
    policy.priority === undefined ? undefined : ['Place in queues', String(policy.priority)],
  ]
}
