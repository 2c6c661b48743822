// The scenario in workerd. Owns the request that starts it: `?gateway=&spare=`.
import { scenario } from './scenario.mjs'

export default {
  async fetch(request) {
    const { searchParams } = new URL(request.url)
    try {
      return Response.json(await scenario(searchParams.get('gateway'), searchParams.get('spare')))
    } catch (error) {
      return new Response(String(error?.stack ?? error), { status: 500 })
    }
  },
}
