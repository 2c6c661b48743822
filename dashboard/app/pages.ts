// The pages: under which path each stands, who sees it, and how its code is fetched. Owns the list; the frame draws the
// navigation from it.
import type { ComponentType } from 'preact'
import type { IconName } from '../parts/icon.tsx'
import type { Permission } from './session.ts'

export type PageProps = {
  /** What the path holds behind the page's own: `['3f…']` for /requests/3f…. */
  rest: readonly string[]
}
type PageModule = { default: ComponentType<PageProps> }

export type PageEntry = {
  path: string
  title: string
  icon: IconName
  group: 'Usage' | 'Control' | 'Platform'
  /** Absent: everybody who is signed in. Any of them is enough. */
  needs: readonly Permission[]
  load: () => Promise<PageModule>
}

export const PAGES: readonly PageEntry[] = [
  {
    path: '/',
    title: 'Overview',
    icon: 'overview',
    group: 'Usage',
    needs: ['usage.read'],
    load: () => import('../pages/overview.tsx'),
  },
  {
    path: '/explore',
    title: 'Explore',
    icon: 'explore',
    group: 'Usage',
    needs: ['usage.read'],
    load: () => import('../pages/explore.tsx'),
  },
  {
    path: '/requests',
    title: 'Requests',
    icon: 'requests',
    group: 'Usage',
    needs: ['usage.read'],
    load: () => import('../pages/requests.tsx'),
  },
  {
    path: '/keys',
    title: 'Keys',
    icon: 'keys',
    group: 'Control',
    needs: ['keys.read'],
    load: () => import('../pages/keys.tsx'),
  },
  {
    path: '/limits',
    title: 'Limits & budgets',
    icon: 'limits',
    group: 'Control',
    needs: ['limits.read'],
    load: () => import('../pages/limits.tsx'),
  },
  {
    path: '/billing',
    title: 'Billing',
    icon: 'billing',
    group: 'Control',
    needs: ['ledger.read', 'credit.read'],
    load: () => import('../pages/billing.tsx'),
  },
  {
    path: '/audit',
    title: 'Audit',
    icon: 'audit',
    group: 'Control',
    needs: ['audit.read'],
    load: () => import('../pages/audit.tsx'),
  },
  {
    path: '/providers',
    title: 'Providers & models',
    icon: 'providers',
    group: 'Platform',
    needs: ['operator'],
    load: () => import('../pages/providers.tsx'),
  },
  {
    path: '/fleet',
    title: 'Fleet',
    icon: 'fleet',
    group: 'Platform',
    needs: ['operator'],
    load: () => import('../pages/fleet.tsx'),
  },
  {
    path: '/playground',
    title: 'Playground',
    icon: 'playground',
    group: 'Platform',
    needs: ['inference.use'],
    load: () => import('../pages/playground.tsx'),
  },
]

/** The page of a path and what follows it. */
export function pageAt(path: string): { page: PageEntry; rest: readonly string[] } | undefined {
  const [first = '', ...rest] = path.split('/').slice(1)
  const page = PAGES.find((one) => one.path === `/${first}`)
  if (page === undefined || (page.path === '/' && path !== '/')) return undefined
  return { page, rest: rest.map(decodeURIComponent) }
}
