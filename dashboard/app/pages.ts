// The pages: under which path each stands, who sees it, and where its code is. Owns the list; the frame draws the navigation
// from it. A piece that is fetched after another costs a way to the gateway, and so does each small one: the pages of usage come
// with the entry, those of each other group together, beside the session.
import type { ComponentType } from 'preact'
import ExplorePage from '../pages/explore.tsx'
import OverviewPage from '../pages/overview.tsx'
import RequestsPage from '../pages/requests.tsx'
import type { IconName } from '../parts/icon.tsx'
import type { Permission } from './session.ts'

export type PageProps = {
  /** What the path holds behind the page's own: `['3f…']` for /requests/3f…. */
  rest: readonly string[]
}
/** Of a page: here already, or fetched when it is opened. */
export type PageCode = { page: ComponentType<PageProps> } | { fetch: () => Promise<ComponentType<PageProps>> }

export type PageEntry = {
  path: string
  title: string
  icon: IconName
  group: 'Usage' | 'Control' | 'Platform'
  /** Absent: everybody who is signed in. Any of them is enough. */
  needs: readonly Permission[]
  code: PageCode
}

const control = () => import('../pages/control.ts')
const platform = () => import('../pages/platform.ts')

export const PAGES: readonly PageEntry[] = [
  {
    path: '/',
    title: 'Overview',
    icon: 'overview',
    group: 'Usage',
    needs: ['usage.read'],
    code: { page: OverviewPage },
  },
  {
    path: '/explore',
    title: 'Explore',
    icon: 'explore',
    group: 'Usage',
    needs: ['usage.read'],
    code: { page: ExplorePage },
  },
  {
    path: '/requests',
    title: 'Requests',
    icon: 'requests',
    group: 'Usage',
    needs: ['usage.read'],
    code: { page: RequestsPage },
  },
  {
    path: '/keys',
    title: 'Keys',
    icon: 'keys',
    group: 'Control',
    needs: ['keys.read'],
    code: { fetch: async () => (await control()).KeysPage },
  },
  {
    path: '/limits',
    title: 'Limits & budgets',
    icon: 'limits',
    group: 'Control',
    needs: ['limits.read'],
    code: { fetch: async () => (await control()).LimitsPage },
  },
  {
    path: '/billing',
    title: 'Billing',
    icon: 'billing',
    group: 'Control',
    needs: ['ledger.read', 'credit.read'],
    code: { fetch: async () => (await control()).BillingPage },
  },
  {
    path: '/audit',
    title: 'Audit',
    icon: 'audit',
    group: 'Control',
    needs: ['audit.read'],
    code: { fetch: async () => (await control()).AuditPage },
  },
  {
    path: '/providers',
    title: 'Providers & models',
    icon: 'providers',
    group: 'Platform',
    needs: ['operator'],
    code: { fetch: async () => (await platform()).ProvidersPage },
  },
  {
    path: '/fleet',
    title: 'Fleet',
    icon: 'fleet',
    group: 'Platform',
    needs: ['operator'],
    code: { fetch: async () => (await platform()).FleetPage },
  },
  {
    path: '/playground',
    title: 'Playground',
    icon: 'playground',
    group: 'Platform',
    needs: ['inference.use'],
    code: { fetch: async () => (await platform()).PlaygroundPage },
  },
]

/** The page of a path and what follows it. */
export function pageAt(path: string): { page: PageEntry; rest: readonly string[] } | undefined {
  const [first = '', ...rest] = path.split('/').slice(1)
  const page = PAGES.find((one) => one.path === `/${first}`)
  if (page === undefined || (page.path === '/' && path !== '/')) return undefined
  return { page, rest: rest.map(decodeURIComponent) }
}
