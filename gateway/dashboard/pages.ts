// Pages that the gateway writes itself, for when the dashboard's own cannot: no build, a sign-in that failed. Owns their form
// and the headers that every answer below /dashboard has. Pure.
import { DASHBOARD_PATH } from './browser.ts'

/** Everything from here, nothing inline: a text that got into a page as markup can neither run nor send anything. */
const POLICY = [
  "default-src 'self'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self' data:",
  "connect-src 'self'",
  "object-src 'none'",
  "base-uri 'none'",
  "form-action 'self'",
  "frame-ancestors 'none'",
].join('; ')

export const PAGE_HEADERS: Readonly<Record<string, string>> = {
  'content-security-policy': POLICY,
  'x-content-type-options': 'nosniff',
  'x-frame-options': 'DENY',
  'referrer-policy': 'no-referrer',
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-resource-policy': 'same-origin',
}

/** A page of a heading, a paragraph and one way on. Texts are the gateway's own or escaped here. */
export function plainPage(
  status: number,
  { title, text, link }: { title: string; text: string; link?: { href: string; text: string } },
): Response {
  const way = link === undefined ? '' : `\n<p><a href="${escaped(link.href)}">${escaped(link.text)}</a></p>`
  const html = `<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<title>${escaped(title)} · Penstock</title></head>
<body>
<h1>${escaped(title)}</h1>
<p>${escaped(text)}</p>${way}
</body>
</html>
`
  const headers = { ...PAGE_HEADERS, 'content-type': 'text/html; charset=utf-8', 'cache-control': 'no-store' }
  return new Response(html, { status, headers })
}

/** What a person sees whose sign-in did not work out. */
export const notSignedIn = (status: number, text: string): Response =>
  plainPage(status, {
    title: 'You are not signed in',
    text,
    link: { href: `${DASHBOARD_PATH}sign-in`, text: 'Back to the sign-in page' },
  })

const ENTITIES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
}
const escaped = (text: string): string => text.replace(/[&<>"']/g, (character) => ENTITIES[character] ?? '')
