// The runtime is asked once for all that goes on together, and waits exactly as long.
import { expect, test } from 'vitest'
import { oneWait } from '../../../../gateway/routes/one-wait.ts'

function watched() {
  const waits: { state: 'under way' | 'over' | 'failed' }[] = []
  const waitUntil = (work: Promise<unknown>) => {
    const wait: (typeof waits)[number] = { state: 'under way' }
    waits.push(wait)
    work.then(
      () => (wait.state = 'over'),
      () => (wait.state = 'failed'),
    )
  }
  return { waits, add: oneWait({ waitUntil }) }
}

const turn = () => new Promise((resolve) => setTimeout(resolve))

test('one wait lasts until the last piece that overlaps is over; what comes later has a wait of its own', async () => {
  const { waits, add } = watched()
  const [first, second, third] = [0, 1, 2].map(() => Promise.withResolvers<void>()) as [
    PromiseWithResolvers<void>,
    PromiseWithResolvers<void>,
    PromiseWithResolvers<void>,
  ]
  add(first.promise)
  add(second.promise)
  first.resolve()
  await turn()
  add(third.promise)
  second.resolve()
  await turn()
  expect(waits).toEqual([{ state: 'under way' }])
  third.resolve()
  await turn()
  expect(waits).toEqual([{ state: 'over' }])
  add(Promise.resolve())
  await turn()
  expect(waits).toEqual([{ state: 'over' }, { state: 'over' }])
})

test('a piece that fails is the runtime’s to report, and the others go on', async () => {
  const { waits, add } = watched()
  const other = Promise.withResolvers<void>()
  add(other.promise)
  add(Promise.reject(new Error('a fault')))
  await turn()
  expect(waits).toEqual([{ state: 'under way' }, { state: 'failed' }])
  other.resolve()
  await turn()
  expect(waits[0]).toEqual({ state: 'over' })
})
