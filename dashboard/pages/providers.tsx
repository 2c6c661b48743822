// Providers & models: how targets do, what models choose among, and the catalog as a document with versions. Owns what is loaded for all
// three views; each is a file of providers/. The operator's alone: the routes are.
import { allPages, api } from '../app/api.ts'
import { useLoad } from '../app/load.ts'
import { oneOf } from '../app/url-state.ts'
import { useUrlState } from '../app/use-url.ts'
import type { Config, Model, Price, Provider, ProvidersHealth } from '../app/wire-admin.ts'
import { Page } from '../parts/page.tsx'
import { Note, Show, Skeleton } from '../parts/states.tsx'
import { Tabs } from '../parts/tabs.tsx'
import { Configuration } from './providers/config.tsx'
import { Health } from './providers/health.tsx'
import { Models } from './providers/models.tsx'

const FILTERS = { tab: oneOf(['health', 'models', 'config'] as const, 'health') }
/** Rows reach the database every few seconds. */
const HEALTH_MS = 10_000

export default function ProvidersPage() {
  const [{ tab }, setFilters] = useUrlState(FILTERS)
  const health = useLoad('health', (signal) => api.get<ProvidersHealth>('/providers/health', {}, signal), {
    everyMs: HEALTH_MS,
  })
  const catalog = useLoad('catalog', async (signal) => {
    const [providers, models] = await Promise.all([
      allPages<Provider>('/providers', {}, signal),
      allPages<Model>('/models', {}, signal),
    ])
    return {
      providers: providers.data,
      models: models.data.sort((a, b) => a.name.localeCompare(b.name)),
      isCut: providers.isCut || models.isCut,
    }
  })
  const prices = useLoad(tab === 'models' ? 'prices' : undefined, (signal) => allPages<Price>('/prices', {}, signal))
  const config = useLoad(tab === 'config' ? 'config' : undefined, (signal) => api.get<Config>('/config', {}, signal))
  return (
    <Page
      title="Providers & models"
      about="Where requests can go, how it goes there, and who decides. Shared by all organisations."
    >
      <Tabs
        label="Views"
        value={tab}
        onChange={(next) => setFilters({ tab: next })}
        tabs={[
          { value: 'health', label: 'Health' },
          { value: 'models', label: 'Models' },
          { value: 'config', label: 'Configuration' },
        ]}
      >
        {tab === 'config' ? (
          <Configuration
            config={config}
            onChanged={() => {
              config.reload()
              catalog.reload()
            }}
          />
        ) : (
          <Show of={catalog} skeleton={<Skeleton rows={6} height={48} />}>
            {({ providers, models, isCut }) => (
              <div class="stack">
                {isCut && <Note kind="warning">There are more models than this page reads.</Note>}
                {tab === 'health' ? (
                  <Health health={health} providers={providers} models={models} />
                ) : (
                  <Models models={models} prices={prices.data?.data ?? []} health={health.data} />
                )}
              </div>
            )}
          </Show>
        )}
      </Tabs>
    </Page>
  )
}
