import { test } from 'vitest'
import { endOf, newAccount, used } from '../support/account.ts'
test('speed', async () => {
  const account = newAccount()
  const limits = [account.money(10n ** 15n), { scope: 'org', scopeId: account.orgId, meter: 'requests', window: 'minute', max: 1e6 } as const]
  const out = await account.inside(async (o) => {
    o.now = () => Date.UTC(2027, 0, 1)
    await o.reserve(account.ask({ limits }))
    const asks = Array.from({ length: 500 }, () => account.ask({ limits }))
    const t0 = performance.now()
    const ids: string[] = []
    for (const a of asks) { const r = await o.reserve(a); if (r.ok) ids.push(r.value.holdId) }
    const t1 = performance.now()
    for (const id of ids) await o.settle(endOf(id, used(10, 5)))
    const t2 = performance.now()
    return [t1 - t0, t2 - t1]
  })
  console.log('500 reserves, 500 settles ms', out, out.map((x) => x / 500))
  const t3 = Date.now()
  await account.stub.flush()
  console.log('flush 500 ms', Date.now() - t3)
})
