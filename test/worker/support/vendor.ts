// Stand-ins for OpenAI-compatible providers that answer, fail or keep silent as a test wants. Owns their bytes; the hosts they
// stand at are path.ts.
import type { Json } from './admin.ts'
import { type Host, readSse, type Target, type World } from './path.ts'

export const MODEL = 'vendor-model'
export const target = (provider: string, over: Partial<Target> = {}): Target => ({
  provider,
  model: MODEL,
  context_tokens: 4096,
  ...over,
})
export const chunk = (part: unknown) => `data: ${JSON.stringify(part)}\n\n`
export const SSE = { headers: { 'content-type': 'text/event-stream' } }
export const piece = (content: string) => chunk({ choices: [{ index: 0, delta: { content } }] })
export const ending = (finish = 'stop', completion = 2, prompt = 5) =>
  chunk({ choices: [{ index: 0, delta: {}, finish_reason: finish }] }) +
  chunk({ choices: [], usage: { prompt_tokens: prompt, completion_tokens: completion } }) +
  'data: [DONE]\n\n'
/** Streams these words. */
export const says =
  (text: string, finish = 'stop'): Host =>
  () =>
    new Response(piece(text) + ending(finish), SSE)
export const fails =
  (status: number, headers: Record<string, string> = {}): Host =>
  () =>
    Response.json({ error: { message: 'no' } }, { status, headers })
/** Opens its stream, and says the rest when the gate opens. */
export const late = (opened: Promise<void>, before: string, text: string): Host => {
  return () => {
    const body = new ReadableStream<Uint8Array>({
      async start(controller) {
        controller.enqueue(new TextEncoder().encode(before))
        await opened
        try {
          controller.enqueue(new TextEncoder().encode(text))
          controller.close()
        } catch {
          // Nobody reads any more.
        }
      },
    })
    return new Response(body, SSE)
  }
}
export const ROLE = chunk({ choices: [{ index: 0, delta: { role: 'assistant' } }] })
/** Resolves never. */
export const never = new Promise<void>(() => {})

/** Providers in the order they were asked. */
export const hostsAsked = (world: World) => world.calls.map(({ host }) => host.replace('.example.com', ''))
export const keysUsed = (world: World) =>
  world.calls.map(({ headers }) => headers.get('authorization')?.replace('Bearer ', ''))
/** What the client reads, streamed or not. */
export async function textOf(response: Response): Promise<string> {
  const text = await response.text()
  if (!(response.headers.get('content-type') ?? '').includes('event-stream')) {
    return JSON.parse(text).choices[0].message.content
  }
  const { data } = readSse(text)
  return data.map((one) => (one as Json).choices[0]?.delta.content ?? '').join('')
}
