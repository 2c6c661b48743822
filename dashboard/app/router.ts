// Where the user is. Owns the address as a signal, the way to change it, and the clicks on links within the dashboard;
// which page stands under which path is pages.ts.
import { computed, signal } from '@preact/signals'

/** The gateway serves index.html for every path below it. */
export const BASE = '/dashboard'

/** What follows the user from page to page: whose figures, of which time, on which clock. */
const STICKY = ['org', 'range', 'from', 'to', 'tz', 'compare'] as const

export type Place = { path: string; params: URLSearchParams; fragment: string }

const read = (): Place => ({
  path: window.location.pathname.slice(BASE.length).replace(/\/+$/, '') || '/',
  params: new URLSearchParams(window.location.search),
  fragment: window.location.hash.slice(1),
})

export const place = signal<Place>(read())
export const path = computed(() => place.value.path)
export const params = computed(() => place.value.params, { name: 'params' })

export type Query = Readonly<Record<string, string | undefined>>

/** The address of a page: sticky parameters come along, `query` is set or, where undefined, taken out. */
export function href(page: string, query: Query = {}): string {
  const next = new URLSearchParams()
  for (const name of STICKY) {
    const value = place.value.params.get(name)
    if (value !== null) next.set(name, value)
  }
  for (const [name, value] of Object.entries(query)) {
    if (value === undefined) next.delete(name)
    else next.set(name, value)
  }
  return address(page, next)
}

function address(page: string, query: URLSearchParams): string {
  const text = query.toString()
  return `${BASE}${page === '/' ? '/' : page}${text === '' ? '' : `?${text}`}`
}

/** Goes to an address made by `href`. `replace` leaves no step in the history. */
export function go(to: string, { replace = false } = {}): void {
  const samePage = new URL(to, window.location.href).pathname === window.location.pathname
  if (replace) window.history.replaceState(undefined, '', to)
  else window.history.pushState(undefined, '', to)
  place.value = read()
  if (!samePage) window.scrollTo(0, 0)
}

/** Changes the parameters of this page. Filters that are typed or dragged replace, so that Back leads out of the page. */
export function goParams(next: URLSearchParams, { replace = false } = {}): void {
  if (next.toString() === place.value.params.toString()) return
  go(address(place.value.path, next), { replace })
}

/** Plain clicks on links below BASE stay in the page; with a modifier they are the browser's. */
export function startRouter(): void {
  window.addEventListener('popstate', () => {
    place.value = read()
  })
  document.addEventListener('click', (event) => {
    if (
      event.defaultPrevented ||
      event.button !== 0 ||
      event.metaKey ||
      event.ctrlKey ||
      event.shiftKey ||
      event.altKey
    )
      return
    const link = event.target instanceof Element ? event.target.closest('a') : undefined
    if (!(link instanceof HTMLAnchorElement) || link.target !== '' || link.hasAttribute('download')) return
    if (link.origin !== window.location.origin || !`${link.pathname}/`.startsWith(`${BASE}/`)) return
    // A file or a route of the gateway itself, and a place on this page.
    if (link.dataset.reload !== undefined || (link.getAttribute('href') ?? '').startsWith('#')) return
    event.preventDefault()
    go(link.href.slice(window.location.origin.length))
  })
}
