// A Worker that passes a call on and its answer back and does nothing else: the limit that the gateway's throughput is held
// against. bench/gateway/rival.ts serves it.

export default {
  async fetch(request, env) {
    const { pathname } = new URL(request.url)
    if (pathname === '/health') return new Response('ok')
    return fetch(env.UPSTREAM + pathname.slice('/v1'.length), {
      method: request.method,
      headers: { 'content-type': 'application/json', authorization: request.headers.get('authorization') ?? '' },
      body: request.body,
    })
  },
}
