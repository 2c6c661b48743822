// The pages that are looked at. Owns the list; the test compares it with the navigation, so that no page is forgotten.

export type Shown = { name: string; path: string }

export const PAGES: readonly Shown[] = [
  { name: 'overview', path: '/' },
  { name: 'explore', path: '/explore' },
  { name: 'requests', path: '/requests' },
  { name: 'keys', path: '/keys' },
  { name: 'limits', path: '/limits' },
  { name: 'billing', path: '/billing' },
  { name: 'audit', path: '/audit' },
  { name: 'providers', path: '/providers' },
  { name: 'fleet', path: '/fleet' },
  { name: 'playground', path: '/playground' },
]
