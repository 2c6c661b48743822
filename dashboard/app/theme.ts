// Light or dark. Owns the choice (the system's, unless the user says otherwise) and the attribute that the styles read.
import { computed, signal } from '@preact/signals'
import { recall, remember } from './preferences.ts'

export const THEMES = ['system', 'light', 'dark'] as const
export type Theme = (typeof THEMES)[number]

export const theme = signal<Theme>(THEMES.find((one) => one === recall('theme')) ?? 'system')

const systemIsDark = window.matchMedia('(prefers-color-scheme: dark)')
const system = signal<'light' | 'dark'>(systemIsDark.matches ? 'dark' : 'light')

/** What is drawn: canvases read their colours anew when it changes. */
export const shownTheme = computed(() => (theme.value === 'system' ? system.value : theme.value))

export function startTheme(): void {
  systemIsDark.addEventListener('change', ({ matches }) => {
    const next = matches ? 'dark' : 'light'
    apply(theme.value === 'system' ? next : theme.value)
    system.value = next
  })
  apply(shownTheme.value)
}

export function chooseTheme(next: Theme): void {
  remember('theme', next === 'system' ? undefined : next)
  // The attribute first, so that whoever is drawn anew reads the new colours.
  apply(next === 'system' ? system.value : next)
  theme.value = next
}

function apply(shown: 'light' | 'dark'): void {
  document.documentElement.dataset.theme = shown
}

/** A custom property of the styles, e.g. `--series-1`. */
export const cssColour = (name: string): string =>
  getComputedStyle(document.documentElement).getPropertyValue(name).trim()
