// Line icons, 16 px, in the colour of their text. Owns their shapes; they are decoration and hidden from screen readers.

const PATHS = {
  overview: 'M2 9.5 8 3l6 6.5M4 8v5.5h8V8',
  explore: 'M2.5 13.5h11M4.5 11V8M8 11V3.5M11.5 11V6',
  requests: 'M3 4h10M3 8h10M3 12h6',
  keys: 'M9.6 6.4a3.3 3.3 0 1 0-2.5 3.2L8.3 11H10v1.5h1.5V14H14v-2.2L9.5 7.5M5.6 5.6h.01',
  limits: 'M2.5 11.5a5.5 5.5 0 1 1 11 0M8 11.5l2.5-4',
  billing: 'M2.5 4.5h11v8h-11zM2.5 7h11M5 10.2h2.5',
  providers: 'M3 3h4v4H3zM9 9h4v4H9zM7 5h4v4M5 7v4h4',
  fleet: 'M2.5 3h11v4h-11zM2.5 9h11v4h-11zM5 5h.01M5 11h.01M7.5 5h3.5M7.5 11h3.5',
  playground: 'M3 3.5h10v7H8l-3 2.5v-2.5H3z',
  audit: 'M8 2.5 13 4.5v3.7c0 2.8-2 4.6-5 5.8-3-1.2-5-3-5-5.8V4.5zM6 8l1.5 1.5L10.3 6.5',
  menu: 'M2.5 4.5h11M2.5 8h11M2.5 11.5h11',
  close: 'M4 4l8 8M12 4l-8 8',
  copy: 'M5.5 5.5h8v8h-8zM3.5 10.5h-1v-8h8v1',
  check: 'M3 8.5 6.5 12 13 4.5',
  down: 'M4 6.5 8 10.5l4-4',
  up: 'M4 9.5 8 5.5l4 4',
  left: 'M9.5 4 5.5 8l4 4',
  right: 'M6.5 4l4 4-4 4',
  download: 'M8 2.5v7.5M4.8 7 8 10.2 11.2 7M3 13.5h10',
  plus: 'M8 3v10M3 8h10',
  search: 'M7 11.5a4.5 4.5 0 1 0 0-9 4.5 4.5 0 0 0 0 9zM10.3 10.3l3.2 3.2',
  refresh: 'M13 8a5 5 0 1 1-1.5-3.6M13.2 2.5v2.8h-2.8',
  sun: 'M8 10.8a2.8 2.8 0 1 0 0-5.6 2.8 2.8 0 0 0 0 5.6zM8 1.5V3M8 13v1.5M1.5 8H3M13 8h1.5M3.4 3.4l1 1M11.6 11.6l1 1M3.4 12.6l1-1M11.6 4.4l1-1',
  moon: 'M13 9.5A5.5 5.5 0 0 1 6.5 3a5.5 5.5 0 1 0 6.5 6.5z',
  system: 'M2.5 3h11v8h-11zM6 13.5h4M8 11v2.5',
  signout: 'M6.5 2.5h-4v11h4M6.5 8h7M11 5.5 13.5 8 11 10.5',
  warning: 'M8 2.5 14.2 13.2H1.8zM8 6.5v3M8 11.3h.01',
  info: 'M8 14A6 6 0 1 0 8 2a6 6 0 0 0 0 12zM8 7.3V11M8 5.1h.01',
  external: 'M6 3.5H3v9.5h9.5V10M9 2.8h4.2V7M13 3 7.5 8.5',
  table: 'M2.5 3.5h11v9h-11zM2.5 6.5h11M2.5 9.5h11M6.5 6.5v6',
  calendar: 'M2.5 4h11v9.5h-11zM2.5 7h11M5.5 2.5V5M10.5 2.5V5',
} as const
export type IconName = keyof typeof PATHS

export function Icon({ name, size = 16 }: { name: IconName; size?: number }) {
  return (
    <svg class="icon" width={size} height={size} viewBox="0 0 16 16" aria-hidden="true" focusable="false">
      <path d={PATHS[name]} />
    </svg>
  )
}

/** The product's mark: water through a pipe onto a wheel. */
export function Mark({ size = 20 }: { size?: number }) {
  return (
    <svg class="mark" width={size} height={size} viewBox="0 0 20 20" aria-hidden="true" focusable="false">
      <path class="mark-pipe" d="M3.5 2.5v5.2c0 4.3 2.6 6.3 6.6 6.3h6.4" />
      <path class="mark-water" d="M8.5 2.5v4.2c0 1.6 1 2.3 2.6 2.3h5.4" />
      <path class="mark-pipe" d="M2 17.5h16" />
    </svg>
  )
}
