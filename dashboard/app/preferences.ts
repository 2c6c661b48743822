// What this browser remembers for its user: theme, zone, organisation. Owns the storage; a browser that forbids it forgets.

type Name = 'theme' | 'zone' | 'org'

const KEY_PREFIX = 'penstock.'

export function recall(name: Name): string | undefined {
  try {
    return window.localStorage.getItem(`${KEY_PREFIX}${name}`) ?? undefined
  } catch {
    return undefined
  }
}

/** Absent forgets. */
export function remember(name: Name, value: string | undefined): void {
  try {
    if (value === undefined) window.localStorage.removeItem(`${KEY_PREFIX}${name}`)
    else window.localStorage.setItem(`${KEY_PREFIX}${name}`, value)
  } catch {
    // Private windows may forbid it; the choice then lasts as long as the page.
  }
}
