// The account's alarm where something in its storage is at fault.
import { expect, test } from 'vitest'
import { NodeAccount, used } from '../../support/account-node.ts'

test('a hold that cannot be read keeps no row of the others from Postgres', async () => {
  const account = new NodeAccount()
  await account.setLimits([])
  const { ask } = await account.grant()
  await account.serve(used(1, 1))
  account.storage.sql.exec("UPDATE holds SET body = '{}' WHERE request_id = ?", ask.requestId)
  account.nowMs += 800_000
  await account.core.alarm()
  expect(account.record.rows.size).toBe(1)
  expect(account.alarmAtMs).toBeGreaterThan(account.nowMs)
})
